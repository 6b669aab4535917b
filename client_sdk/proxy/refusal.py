"""What the proxy itself refuses, as an HTTP answer in OpenAI's error form."""

from __future__ import annotations

from starlette.responses import JSONResponse

from attestation.errors import UmayError
from client_sdk.failures import error_body, error_json, status_of


class Refusal(UmayError):
    """`param` names the field of the body that is wrong, as OpenAI's errors do; `headers` are the
    answer's."""

    exit_code = 2

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.response = JSONResponse(error_body(code, message, param=param), status, headers)


def failure(error: UmayError) -> JSONResponse:
    """The answer for an error of the client, or for a Refusal."""
    if isinstance(error, Refusal):
        return error.response
    status, headers = status_of(error)
    return JSONResponse(error_json(error), status, headers)
