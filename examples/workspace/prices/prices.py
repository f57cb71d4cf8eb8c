"""A module that answers messages. Its secret may change while it runs."""

import hmac
from typing import Any

from starlette.applications import Starlette

from pywatt_host import AppState, MessagingError

CENTS = {"apple": 40, "bread": 320}


def create_app(state: AppState) -> Starlette:
    @state.on_message("price")
    async def price(message: dict[str, Any]) -> dict[str, Any]:
        cents = CENTS.get(message["item"])
        if cents is None:
            raise MessagingError("invalid_message", f"there is no {message['item']} here")
        code = (await state.get_secret("DISCOUNT_CODE")).expose_secret()
        if hmac.compare_digest((message.get("code") or "").encode(), code.encode()):
            cents = cents * 9 // 10
        return {"type": "price", "cents": cents}

    return Starlette()
