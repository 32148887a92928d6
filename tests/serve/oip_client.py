"""An existing client of the Open Inference Protocol, unchanged: tritonclient over HTTP against a live server.

oip_client.py ADDRESS:PORT MODEL ROWS COLUMNS CLASSES; ends with 0 when everything is as the client expects, 77 where
the client is not installed."""
import sys

try:
    import numpy as np
    import tritonclient.http as http
    from tritonclient.utils import InferenceServerException
except ImportError as missing:
    print(f"SKIPPED: {missing}")
    sys.exit(77)


def infer(client, model, x, binary):
    given = http.InferInput("x", list(x.shape), "FP32")
    given.set_data_from_numpy(x, binary_data=binary)
    wanted = http.InferRequestedOutput("y", binary_data=binary)
    reply = client.infer(model, [given], outputs=[wanted], request_id="abc")
    assert reply.get_response()["id"] == "abc"
    assert reply.get_response()["model_name"] == model
    return reply.as_numpy("y")


def main():
    url, model = sys.argv[1:3]
    rows, columns, classes = map(int, sys.argv[3:])
    client = http.InferenceServerClient(url)
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready(model)
    assert not client.is_model_ready("nope")
    assert client.get_server_metadata()["name"] == "tensorbrain"
    metadata = client.get_model_metadata(model)
    assert metadata["inputs"][0]["shape"] == [-1, columns] and metadata["outputs"][0]["shape"] == [-1, classes]
    assert client.get_model_config(model)["max_batch_size"] >= rows
    assert client.get_model_repository_index()[0]["name"] == model

    before = client.get_inference_statistics(model)["model_stats"][0]
    x = np.random.default_rng(1).standard_normal((rows, columns)).astype(np.float32)
    text, raw = infer(client, model, x, False), infer(client, model, x, True)
    assert text.shape == raw.shape == (rows, classes) and text.dtype == np.float32
    assert (text.view(np.uint32) == raw.view(np.uint32)).all(), "JSON and binary differ"
    for i in range(rows):
        alone = infer(client, model, x[i:i + 1], True)
        assert (alone.view(np.uint32) == raw[i:i + 1].view(np.uint32)).all(), "a row alone has other bits"

    statistics = client.get_inference_statistics(model)["model_stats"][0]
    assert statistics["inference_count"] == before["inference_count"] + 3 * rows
    assert statistics["inference_stats"]["success"]["count"] == before["inference_stats"]["success"]["count"] + rows + 2
    client.load_model(model)
    assert client.is_model_ready(model)
    try:
        infer(client, model, x[:, :-1].copy(), True)
        raise AssertionError("a wrong shape was taken")
    except InferenceServerException as error:
        assert "400" in str(error.status()), error
    client.unload_model(model)
    assert not client.is_model_ready(model)
    print("ok")


if __name__ == "__main__":
    main()
