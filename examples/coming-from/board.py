"""The application that the configurations in this folder serve."""


async def app(scope, receive, send):
    if scope["type"] != "http":
        raise RuntimeError("this application has no lifespan")
    status = 200 if scope["path"] == "/" else 404
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"the board is empty\n" if status == 200 else b""})
