import json


def main(status: int, body: str) -> dict:
    try:
        reply = json.loads(body)
    except ValueError:
        reply = None
    if not isinstance(reply, dict) or "success" not in reply:
        # Something between Dify and mirrorgate answered, such as a proxy.
        return {"answer": "", "problem": f"HTTP {status}: {body[:500]}"}
    error = reply.get("error") or {}
    problem = ": ".join(error[name] for name in ("message", "hint") if error.get(name))
    return {"answer": reply.get("answer") or "", "problem": problem}
