#!/usr/bin/python3
"""FastAPI behind uvicorn as a peer of `tb run serving_load`: POST /v1/predict without any model, which favours it.

fastapi_predict.py VARIANT FD serves on the listening socket FD, one process, access log off, uvloop and httptools where
they are installed. VARIANT pydantic validates request and reply by models; raw is json.loads, then json.dumps. It
prints "ready VERSIONS" and ends when its input ends."""
import json
import os
import socket
import sys
import threading

import fastapi
import pydantic
import uvicorn

ANSWER = {"y": [0.0] * 10}


class Rows(pydantic.BaseModel):
    data: list[float]


class Answer(pydantic.BaseModel):
    y: list[float]


def application(variant):
    app = fastapi.FastAPI()
    if variant == "pydantic":
        @app.post("/v1/predict", response_model=Answer)
        async def predict(rows: Rows):
            return ANSWER
    else:
        @app.post("/v1/predict")
        async def predict(request: fastapi.Request):
            json.loads(await request.body())["data"]
            return fastapi.Response(json.dumps(ANSWER), media_type="application/json")
    return app


def versions(config):
    loop = "uvloop" if "uvloop" in sys.modules else "asyncio"
    return (f"fastapi-{fastapi.__version__},uvicorn-{uvicorn.__version__},{loop},{config.http_protocol_class.__name__},"
            f"pydantic-{pydantic.VERSION}")


def main():
    variant, listener = sys.argv[1], socket.socket(fileno=int(sys.argv[2]))
    app = application(variant)
    config = uvicorn.Config(app, log_level="critical", access_log=False)
    config.load()
    app.on_event("startup")(lambda: print("ready", versions(config), flush=True))

    def end_with_input():
        sys.stdin.read()
        os._exit(0)

    threading.Thread(target=end_with_input, daemon=True).start()
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
