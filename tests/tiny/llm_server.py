"""An OpenAI-compatible server on a real local socket that answers well, or misbehaves as it is told to.

Its good answers fit whatever is asked: prompts of the right length, language and quoted text, no two alike.
"""

import json
import random
import threading
from collections.abc import Callable
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LETTERS = "abcdefghijklmnopqrstuvwxyz"
SYLLABLES = [a + b for a in "bdfklmnprst" for b in "aeiou"]
HAN = [chr(code) for code in range(0x4E00, 0x5E00)]


class LlmServer:
    """What a test sees of the server.

    ``behave(server, handler, request, number)`` may answer in place of the server, and returns whether it did.
    """

    def __init__(self, behave=None):
        self.behave = behave or (lambda server, handler, request, number: False)
        self.requests = []
        self.headers = []
        self.lock = threading.Lock()
        self.end = threading.Event()
        """Set when the test is over: wakes those who never answer."""
        self.base_url = ""

    def tasks(self):
        return [task_of(request) for request in self.requests]


@contextmanager
def llm_server(behave=None):
    state = LlmServer(behave)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with state.lock:
                state.requests.append(request)
                state.headers.append({name.lower(): value for name, value in self.headers.items()})
                number = len(state.requests) - 1
            try:
                if not state.behave(state, self, request, number):
                    send(self, completion(good_answer(request)))
            except (BrokenPipeError, ConnectionResetError):
                pass  # the client gave up waiting

        def log_message(self, *_):
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64

    server = Server(("127.0.0.1", 0), Handler)
    state.base_url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        state.end.set()
        server.shutdown()
        server.server_close()


def send(handler, body, status=200, headers=()):
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    handler.send_response(status)
    handler.send_header("Content-Type", "application/json")
    for name, value in headers:
        handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(raw)))
    handler.end_headers()
    handler.wfile.write(raw)
    return True


def error(handler, status, message="something is wrong", headers=(), **fields):
    return send(handler, {"error": {"message": message, **fields}}, status, headers)


def completion(text, *, finish_reason="stop", refusal=None, usage=True):
    body = {
        "id": "x",
        "object": "chat.completion",
        "choices": [
            {
                "index": 0,
                "finish_reason": finish_reason,
                "message": {"role": "assistant", "content": text, "refusal": refusal},
            }
        ],
    }
    return body | ({"usage": {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150}} if usage else {})


def data_of(request):
    return json.loads(request["messages"][1]["content"])


def task_of(request):
    system = request["messages"][0]["content"]
    if "strict auditor" in system:
        return "audit"
    return "expand" if "extend a taxonomy" in system else "write"


def good_answer(request):
    data, task = data_of(request), task_of(request)
    if task == "audit":
        verdict = {"is_valid": True, "criterion": "none", "reason": "fine"}
        return json.dumps({"verdicts": [{"number": item["number"], **verdict} for item in data["items"]]})
    if task == "expand":
        known = len(data["there_already"])
        rng = random.Random(f"{data['sub_class']}/{known}")
        return json.dumps({"categories": [f"{word(rng)} {word(rng)}" for _ in range(data["wanted"])]})
    system = request["messages"][0]["content"]
    language = "zh" if "Language: simplified Chinese" in system else "en"
    kind = "simple" if "Type of prompt: simple" in system else "detailed"
    seed = request.get("seed", len(request["messages"][1]["content"]))
    prompts = [
        {"number": item["number"], "prompt": prompt_for(item, kind, language, f"{seed}/{item['number']}")}
        for item in data["items"]
    ]
    return json.dumps({"prompts": prompts}, ensure_ascii=False)


def prompt_for(item, kind, language, seed):
    rng = random.Random(seed)
    quoted = {"han": '"老街面馆"', "latin": '"Open Late"', "any": '"3 + 4 = 7"'}.get(item.get("text"), "")
    if language == "zh":
        sizes = (22, 24, 26) if kind == "detailed" else (18,)
        text = "".join("".join(rng.choices(HAN, k=size)) + "。" for size in sizes)
        return text + (f"牌子上写着{quoted}。" if quoted else "")
    sizes = (10, 11, 12) if kind == "detailed" else (9,)
    text = " ".join(" ".join(word(rng) for _ in range(size)).capitalize() + "." for size in sizes)
    return text + (f" A board reads {quoted}." if quoted else "")


def word(rng):
    return "".join(rng.choice(SYLLABLES) for _ in range(rng.randint(2, 4)))


Behaviour = Callable[[LlmServer, BaseHTTPRequestHandler, dict, int], bool]
