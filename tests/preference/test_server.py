"""The server without a browser: who is let in, what an answer tells, what is refused."""

from __future__ import annotations

import http.client
import json
import shutil
from threading import Thread
from urllib.parse import quote

import av
import pytest

from stas.preference.items import read_rated
from stas.preference.server import LONGEST_BODY, RatingServer, filled_up
from stas.preference.votes import Rating, Votes
from tests.preference.made import OFF, ON, STRONG, make


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return make(tmp_path_factory.mktemp("server") / "c", (OFF, ON, STRONG)).folder


@pytest.fixture
def server(finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "c")
    votes = Votes(read_rated(folder), Rating(settings=("off", "on", "strong"), repeats=0.3))
    with RatingServer(votes, 0) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()
    votes.close()


def ask(server, method, path, body=None, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=10)
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    found = answer.status, dict(answer.getheaders()), answer.read()
    connection.close()
    return found


def vote(server, body, **headers):
    own = server.url.rstrip("/")
    headers = {"Origin": own, "Content_Type": "application/json"} | headers
    return ask(server, "POST", "/vote", json.dumps(body), **headers)


def session(server, rater="ann"):
    status, _, body = ask(server, "GET", f"/session?rater={quote(rater)}")
    assert status == 200
    return json.loads(body)["showings"]


def test_the_page_and_a_vote(server):
    status, headers, body = ask(server, "GET", "/")
    assert status == 200 and headers["Content-Type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert body.index(b"quality") < body.index(b"motion") < body.index(b"alignment")
    for outside in (b"http:", b"https:", b"//cdn", b"@import"):
        assert outside not in body
    first = session(server)[0]
    said = {"rater": "ann", "key": first["key"], "question": "motion", "choice": "tie"}
    assert vote(server, said)[0] == 200
    assert session(server)[0]["answers"] == {"motion": "tie"}
    assert session(server, "bob")[0]["answers"] == {}


def test_nothing_that_is_sent_says_which_is_which(server):
    given = {each["key"]: each for each in session(server)}
    prompts = {sample.prompt for sample in server.votes.rated.samples}
    for each in given.values():
        assert each["prompt"] in prompts and each["answers"] == {}
        assert set(each) == {"key", "prompt", "videos", "answers"}
        text = each["key"] + "".join(each["videos"])
        assert set(text) <= set("0123456789abcdef") and len(text) == 96
    tokens = [token for each in given.values() for token in each["videos"]]
    assert len(set(tokens)) == len(tokens)  # nor that a pair was seen before
    kinds = {}
    for showing in server.votes.showings("ann"):
        for token in given[showing.key]["videos"]:
            status, headers, body = ask(server, "GET", f"/video/{token}?rater=ann")
            assert status == 200
            told = {name: value for name, value in headers.items() if name != "Date"}
            del told["Content-Security-Policy"]  # with a random number
            kinds.setdefault(showing.item.sample, set()).add((json.dumps(told), len(body)))
    assert len(kinds) == 3 and all(len(each) == 1 for each in kinds.values())
    sizes = {path.stat().st_size for path in server.votes.rated.videos.values()}
    assert len(sizes) > 3  # else equal lengths would have been no feat


def test_the_videos_are_the_runs_own_on_the_side_that_is_kept(server):
    for showing, given in zip(server.votes.showings("ann"), session(server), strict=True):
        assert given["key"] == showing.key
        for token, setting in zip(given["videos"], (showing.left, showing.right), strict=True):
            _, _, body = ask(server, "GET", f"/video/{token}?rater=ann")
            path = server.votes.rated.videos[showing.item.sample, setting]
            assert body.startswith(path.read_bytes())


def test_filled_up_videos_still_play(finished, tmp_path):
    path = next((finished / "videos").glob("*.mp4"))
    video = path.read_bytes()
    (tmp_path / "longer.mp4").write_bytes(filled_up(video, len(video) + 1000))
    with av.open(tmp_path / "longer.mp4") as container:
        assert len(list(container.decode(video=0))) == 9
    with pytest.raises(ValueError, match="can't be filled up"):
        filled_up(video, len(video) + 7)


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "localhost.evil:1"]
)
def test_a_foreign_host_is_refused(server, host):
    for path in ("/", "/session?rater=ann"):
        status, _, body = ask(server, "GET", path, Host=host)
        assert status == 403 and b"rater" not in body
    said = {"rater": "ann", "key": session(server)[0]["key"], "question": "motion", "choice": "tie"}
    assert vote(server, said, Host=host, Origin=f"http://{host}")[0] == 403
    assert server.votes.all() == []


@pytest.mark.parametrize("host", ["localhost", "localhost:9000", "127.0.0.1"])
def test_this_machine_by_name_and_through_a_tunnel_is_let_in(server, host):
    assert ask(server, "GET", "/", Host=host)[0] == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1", None])
def test_a_foreign_origin_can_not_vote(server, origin):
    said = {"rater": "ann", "key": session(server)[0]["key"], "question": "motion", "choice": "tie"}
    body, headers = json.dumps(said), {"Content_Type": "application/json"}
    headers |= {} if origin is None else {"Origin": origin}
    assert ask(server, "POST", "/vote", body, **headers)[0] == 403
    assert server.votes.all() == []


@pytest.mark.parametrize(
    "change",
    [
        {"rater": ""},
        {"rater": ["ann"]},
        {"rater": "bob"},  # whose keys are others
        {"key": "x"},
        {"key": ["x"]},
        {"question": "sharpness"},
        {"question": []},
        {"choice": "off"},
        {"choice": None},
    ],
)
def test_what_is_no_vote_is_refused(server, change):
    said = {"rater": "ann", "key": session(server)[0]["key"], "question": "motion", "choice": "tie"}
    assert vote(server, said | change)[0] == 400
    assert server.votes.all() == []


@pytest.mark.parametrize("body", ["", "[]", "{", "7", "[" * 2000, '"' + "x" * LONGEST_BODY + '"'])
def test_bodies_that_are_none(server, body):
    headers = {"Origin": server.url.rstrip("/"), "Content_Type": "application/json"}
    assert ask(server, "POST", "/vote", body, **headers)[0] == 400
    headers["Content_Type"] = "text/plain"  # what a form of another page could send
    assert ask(server, "POST", "/vote", "{}", **headers)[0] == 400


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/votes.sqlite", 404),
        ("/video/../votes.sqlite?rater=ann", 404),
        ("/video/%2e%2e/votes.sqlite?rater=ann", 404),
        ("/video/?rater=ann", 404),
        ("/video/off?rater=ann", 404),
        ("/session", 400),
        ("/session?rater=%00", 400),
    ],
)
def test_what_is_not_the_pages_own_is_not_served(server, path, status):
    assert ask(server, "GET", path)[0] == status


def test_one_raters_videos_are_not_anothers(server):
    token = session(server)[0]["videos"][0]
    assert ask(server, "GET", f"/video/{token}?rater=bob")[0] == 404


def test_a_video_that_vanishes_is_said_and_names_no_file(server, capfd):
    tokens = session(server)[0]["videos"]
    assert ask(server, "GET", f"/video/{tokens[0]}?rater=ann")[0] == 200
    for path in server.votes.rated.videos.values():
        path.unlink()
    status, _, body = ask(server, "GET", f"/video/{tokens[0]}?rater=ann")
    assert status == 500 and b"the terminal of stas rate says why" in body
    assert ".mp4" in capfd.readouterr().err and b".mp4" not in body
    assert ask(server, "GET", "/")[0] == 200


def test_a_port_in_use_is_said(server):
    with pytest.raises(OSError, match=r"Can't serve on port \d+: .*Give another --port"):
        RatingServer(server.votes, server.server_address[1])
