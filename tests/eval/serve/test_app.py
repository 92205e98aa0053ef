"""The service's routes: what they answer, and what they refuse."""

from __future__ import annotations

import io
import re
import zipfile
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import numpy as np
import pytest
from PIL import Image

from data_prep.core.errors import UserError
from data_prep.embedding.image_inputs import open_input
from eval.recognizer.recognizer import Recognizer
from eval.serve.admission import Admission, Busy
from eval.serve.batching import Batcher
from eval.serve.gate import Limits
from tests.eval.serve.conftest import AUTHORIZED, NAMES, TOKEN, assert_equal, encoded, send


def test_images_get_the_answers_of_the_recognizer_in_their_order(serve, recognizer, images):
    client = serve()
    files = [images[label][2] for label in (3, 0, 4)]
    results = send(client, files, k=3, top=2)
    assert [result["file"] for result in results] == ["0.png", "1.png", "2.png"]
    assert_equal(results, [result.to_dict(2) for result in recognizer.predict(files, 3)])
    assert {len(result["candidates"]) for result in results} == {2}
    assert all(result["name"] == result["candidates"][0]["name"] and result["ranked"] for result in results)


def test_an_image_that_cannot_be_read_has_an_error_and_the_others_a_result(serve, images):
    client = serve()
    results = send(client, [images[0][2], b"not an image", images[1][2]])
    assert [result["error"] is None for result in results] == [True, False, True]
    assert results[1]["error"].startswith("1.png: not an image of an accepted format")
    assert (results[1]["name"], results[1]["candidates"]) == (None, [])
    response = client.post("/recognise", files=[("images", ("a.png", b"no")), ("images", ("b.png", b""))])
    assert response.status_code == 422
    assert [bool(result["error"]) for result in response.json()["results"]] == [True, True]


def zipped() -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("a.png", b"0" * 1000)
    return data.getvalue()


def bomb() -> bytes:
    return encoded(Image.new("1", (20_000, 9_000)))


HOSTILE = {
    "bomb": (bomb, "a decompression bomb"),
    "svg": (lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", "accepted format"),
    "pdf": (lambda: b"%PDF-1.7\n", "accepted format"),
    "eps": (lambda: encoded(Image.new("RGB", (9, 9)), "EPS"), "accepted format"),
    "zip": (zipped, "accepted format"),
    "truncated": (lambda: encoded(Image.effect_noise((90, 90), 50))[:3000], "truncated"),
    "strip": (lambda: encoded(Image.new("RGB", (9, 9000))), "200 times as long"),
    "empty": (lambda: b"", "empty.png"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_uploads_are_refused(serve, images, kind):
    client = serve()
    make, message = HOSTILE[kind]
    data = make()
    files = [("images", (f"{kind}.png", data))]
    response = client.post("/recognise", files=files)
    assert response.status_code == 422 and message in response.json()["results"][0]["error"]
    before = client.get("/classes").json()
    response = client.post("/classes", files=files, data={"name": "new"}, headers=AUTHORIZED)
    assert response.status_code == 422 and message in response.json()["detail"]
    assert client.get("/classes").json() == before and len(send(client, [images[0][0]])) == 1


def test_sizes_numbers_and_forms_beyond_the_limits_are_refused(serve, images):
    client = serve(limits=Limits(20_000, 2))
    noise = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 255, (99, 99, 3), np.uint8)))
    assert 20_000 < len(noise) < 40_000
    for files, message in (
        ([noise], "at most 0.02 MB"),
        ([images[0][0]] * 3, "3 images: at most 2"),
        ([b"0" * 2_000_000], "too large"),
    ):
        response = client.post("/recognise", files=[("images", ("a.png", data)) for data in files])
        assert response.status_code == 413 and message in response.json()["detail"]

    def chunks():  # a body of unknown length
        yield b'--x\r\nContent-Disposition: form-data; name="images"; filename="a.png"\r\n\r\n'
        for _ in range(20):
            yield b"0" * 100_000

    response = client.post("/recognise", content=chunks(), headers={"Content-Type": "multipart/form-data; boundary=x"})
    assert response.status_code == 413
    for form in ({"k": 0}, {"k": 1000}, {"top": 0}, {"k": "many"}):
        assert client.post("/recognise", files={"images": images[0][0]}, data=form).status_code == 422
    assert client.post("/recognise", data={"k": 2}).status_code == 422  # no image


def test_classes_are_listed_added_found_and_removed(serve, images):
    client = serve()
    assert client.get("/classes").json()["classes"] == [{"name": name, "images": 2} for name in sorted(NAMES[:5])]
    files = [("images", ("a.png", data)) for data in images[6][:2]]
    response = client.post("/classes", files=files, data={"name": NAMES[6]}, headers=AUTHORIZED)
    assert response.json() == {"name": NAMES[6], "new": True, "added": 2, "images": 2}
    response = client.post("/classes", files=files, data={"name": NAMES[6].upper()}, headers=AUTHORIZED)
    assert response.json() == {"name": NAMES[6], "new": False, "added": 0, "images": 2}
    assert NAMES[6] in {candidate["name"] for candidate in send(client, [images[6][2]], k=6)[0]["candidates"]}
    response = client.post("/classes", data={"name": "a/b ?"}, headers=AUTHORIZED)
    assert response.json() == {"name": "a/b ?", "new": True, "added": 0, "images": 0}
    assert client.delete("/classes/a%2Fb%20%3F", headers=AUTHORIZED).json() == {"name": "a/b ?", "images": 0}
    assert client.delete(f"/classes/{NAMES[6]}", headers=AUTHORIZED).json() == {"name": NAMES[6], "images": 2}
    assert client.delete(f"/classes/{NAMES[6]}", headers=AUTHORIZED).status_code == 404
    for name in ("", "  ", "a\0b", "n" * 201, NAMES[0]):
        assert client.post("/classes", data={"name": name}, headers=AUTHORIZED).status_code == 422
    assert len(client.get("/classes").json()["classes"]) == 5


def test_without_the_token_nothing_changes(serve, images):
    client = serve()
    before = client.get("/classes").json()
    for headers in ({}, {"Authorization": "Bearer other"}, {"Authorization": TOKEN}, {"Authorization": "Bearer é"}):
        raw = {key: value.encode() for key, value in headers.items()}
        response = client.post("/classes", files={"images": images[6][0]}, data={"name": "new"}, headers=raw)
        assert response.status_code == 401 and response.headers["WWW-Authenticate"] == "Bearer"
        assert client.delete(f"/classes/{NAMES[0]}", headers=raw).status_code == 401
    assert client.get("/classes").json() == before
    locked = serve(token="")
    for headers in ({"Authorization": "Bearer "}, AUTHORIZED):
        assert locked.post("/classes", data={"name": "new"}, headers=headers).status_code == 403
        assert locked.delete(f"/classes/{NAMES[0]}", headers=headers).status_code == 403
    assert locked.get("/classes").json() == before and send(locked, [images[0][0]])


def test_changes_are_on_disk_before_they_are_answered(serve, recognizer, finished, images, tmp_path):
    client = serve(folder=tmp_path / "memory")
    files = {"images": images[6][0]}
    assert client.post("/classes", files=files, data={"name": NAMES[6]}, headers=AUTHORIZED).status_code == 200
    assert client.delete(f"/classes/{NAMES[0]}", headers=AUTHORIZED).status_code == 200
    wanted = {**dict.fromkeys(NAMES[1:5], 2), NAMES[6]: 1}
    again = Recognizer.from_pretrained(finished, tmp_path / "memory")
    assert again.memory.classes == wanted
    results = recognizer.predict([images[6][1]])
    assert [r.to_dict() for r in again.predict([images[6][1]])] == [r.to_dict() for r in results]
    # Another command changes the folder: a change is refused, and the service has what is on disk.
    again.memory.add("elsewhere")
    again.memory.save_changes()
    response = client.post("/classes", data={"name": "here"}, headers=AUTHORIZED)
    assert response.status_code == 422 and "changed by another command" in response.json()["detail"]
    assert {entry["name"] for entry in client.get("/classes").json()["classes"]} == {*wanted, "elsewhere"}
    assert client.post("/classes", data={"name": "here"}, headers=AUTHORIZED).status_code == 200


def test_when_too_many_images_wait_the_client_is_told_to_try_again(serve, recognizer, images, monkeypatch):
    started, go_on, predict = Event(), Event(), recognizer.predict

    def predict_slowly(*args, **kwargs):
        started.set()
        go_on.wait(60)
        return predict(*args, **kwargs)

    def make_small(service):
        service.admission = Admission(2, 10**8)

    monkeypatch.setattr(recognizer, "predict", predict_slowly)
    client = serve(change=make_small)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(send, client, [images[0][0], images[1][0]])
        assert started.wait(60)
        assert client.get("/health").json() == {"status": "ok", "classes": 5, "waiting_images": 2}
        response = client.post("/recognise", files={"images": images[2][0]})
        assert (response.status_code, response.headers["Retry-After"]) == (503, "1")
        go_on.set()
        assert len(waiting.result()) == 2
    assert len(send(client, [images[2][0]])) == 1
    response = client.post("/recognise", files=[("images", ("a.png", images[0][0]))] * 3)
    assert response.status_code == 413  # it would never be accepted


def test_a_body_without_room_is_refused_and_room_is_held_until_the_answer(serve, recognizer, images, monkeypatch):
    services, started, predict = [], Event(), recognizer.predict
    client = serve(change=services.append)
    bodies = services[0].bodies

    def body():
        started.set()
        yield b'--x\r\nContent-Disposition: form-data; name="images"; filename="a.png"\r\n\r\n'
        yield images[0][0] + b"\r\n--x--\r\n"

    size = len(b"".join(body()))
    form = {"Content-Type": "multipart/form-data; boundary=x"}
    announced = form | {"Content-Length": str(size)}
    started.clear()
    with bodies.admit(0, bodies.max_bytes - size + 1):
        response = client.post("/recognise", content=body(), headers=announced)
        assert (response.status_code, response.headers["Retry-After"]) == (503, "1") and not started.is_set()
        response = client.post("/recognise", content=body(), headers=form)  # of unknown length
        assert (response.status_code, response.headers["Retry-After"]) == (503, "1") and started.is_set()
        assert client.get("/health").status_code == 200

    def predict_while_held(*args, **kwargs):
        with pytest.raises(Busy), bodies.admit(0, bodies.max_bytes):
            pass
        return predict(*args, **kwargs)

    monkeypatch.setattr(recognizer, "predict", predict_while_held)
    for headers in (announced, form):
        assert client.post("/recognise", content=body(), headers=headers).status_code == 200
        with bodies.admit(0, bodies.max_bytes):
            pass


def test_a_batch_whose_requests_are_all_gone_is_not_counted(recognizer, images):
    started, go_on, counts = Event(), Event(), []

    def count(number: int) -> None:
        counts.append(number)
        started.set()
        go_on.wait(60)

    batcher = Batcher(recognizer, count)
    image = open_input(images[0][0], "a.png")
    batcher.submit([image], None)
    assert started.wait(60)
    assert batcher.submit([image], None).cancel()
    go_on.set()
    batcher.close()
    assert counts == [1]


def test_a_batch_that_fails_costs_its_own_requests_alone(serve, recognizer, images, monkeypatch):
    client = serve()
    with monkeypatch.context() as patch:
        patch.setattr(recognizer, "predict", lambda *args, **kwargs: 1 / 0)
        assert client.post("/recognise", files={"images": images[0][0]}).status_code == 500
    assert send(client, [images[0][0]]) and client.get("/health").json()["status"] == "ok"


def test_requests_of_eight_clients_get_the_answers_of_a_single_one(serve, recognizer, images):
    client = serve()
    files = [file for row in images for file in row]
    expected = {k: [result.to_dict() for result in recognizer.predict(files, k)] for k in (2, 4)}

    def ask(number: int) -> None:
        start, count, k = number * 5 % len(files), 1 + number % 3, 2 + number % 2 * 2
        wanted = [(start + i) % len(files) for i in range(count)]
        assert_equal(send(client, [files[i] for i in wanted], k=k), [expected[k][i] for i in wanted])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(40)))
    text = client.get("/metrics").text
    batches, images_in = (int(re.search(rf"^rar_batch_images_{key} (\d+)", text, re.M)[1]) for key in ("count", "sum"))
    assert images_in == sum(1 + number % 3 for number in range(40)) and batches < 40


def test_health_metrics_and_the_description_of_the_interface(serve, images):
    client = serve()
    send(client, [images[0][0], b"no"])
    client.get("/nothing/here")
    client.delete("/classes/x")
    text = client.get("/metrics").text
    for line in (
        'rar_requests_total{method="POST",route="/recognise",status="200"} 1',
        'rar_requests_total{method="GET",route="other",status="404"} 1',
        'rar_requests_total{method="DELETE",route="other",status="401"} 1',
        'rar_images_total{outcome="failed"} 1',
        'rar_images_total{outcome="ranked"} 1',
        'rar_recognise_seconds_bucket{le="+Inf"} 1',
        "rar_classes 5",
        "rar_waiting_images 0",
    ):
        assert f"{line}\n" in text
    assert all(re.fullmatch(r"# (HELP|TYPE) rar_\w+ .+|rar_\w+(\{[^}]*\})? [0-9.e+-]+", x) for x in text.splitlines())
    paths = client.get("/openapi.json").json()["paths"]
    assert set(paths) == {"/recognise", "/classes", "/classes/{name}", "/health", "/metrics"}
    assert paths["/classes"]["post"]["security"] and "security" not in paths["/recognise"]["post"]
    assert client.get("/docs").status_code == 200


def test_more_memory_than_there_is_is_refused():
    admission = Admission(4, 1000)
    with admission.admit(1, 900), pytest.raises(Exception) as raised, admission.admit(1, 200):
        pass
    assert not isinstance(raised.value, UserError) and admission.images == 0
    with pytest.raises(UserError, match="at most 4 images"), admission.admit(5, 1):
        pass
