"""TEMPORARY"""


class CrashLoop:
    looping = False

    def ended(self, place: int, age: float) -> None: ...
    def delay(self, place: int) -> float:
        return 0.0
