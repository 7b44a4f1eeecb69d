"""A real S3 server, moto's, in this process. moto does not look at signatures in URLs, so botocore does here."""

from __future__ import annotations

import threading
import time
import uuid
from dataclasses import dataclass, field
from urllib.parse import parse_qs, quote, urlencode

from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server
from werkzeug.test import Client
from werkzeug.wrappers import Request, Response

REGION = "eu-central-1"
KEY_ID, SECRET = "test-key-id", "test/secret+with=signs"


def is_signed(request: Request, now: float) -> bool:
    """Whether the URL's signature is the one that botocore would make, and not too old."""
    query = parse_qs(request.query_string.decode(), keep_blank_values=True)
    value = {name: values[0] for name, values in query.items()}
    names = value["X-Amz-SignedHeaders"].split(";")
    if any(name.lower().startswith("x-amz-") and name.lower() not in names for name, _ in request.headers):
        return False
    signed = time.strptime(value["X-Amz-Date"], "%Y%m%dT%H%M%SZ")
    age = now - (time.mktime(signed) - time.timezone)
    if not -60 < age < int(value["X-Amz-Expires"]):
        return False
    unsigned = {name: text for name, text in value.items() if name != "X-Amz-Signature"}
    # botocore signs the query as it is written.
    canonical = urlencode(unsigned, quote_via=quote, safe="-_.~")
    auth = S3SigV4QueryAuth(Credentials(KEY_ID, SECRET), "s3", REGION)
    headers = {name: request.headers[name] for name in names if name != "host"}
    again = AWSRequest(request.method, f"{request.base_url}?{canonical}", headers=headers)
    again.context["timestamp"] = value["X-Amz-Date"]
    text = auth.string_to_sign(again, auth.canonical_request(again))
    return value["X-Amz-Signature"] == auth.signature(text, again)


@dataclass
class Bucket:
    """An empty bucket on a server of its own; all servers share moto's memory, so its name is its own, too."""

    name: str = field(default_factory=lambda: f"conversations-{uuid.uuid4()}")
    url: str = field(init=False)
    # When each snapshot began to arrive.
    snapshots: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.inner = DomainDispatcherApplication(create_backend_app)
        self.server = make_server("127.0.0.1", 0, self.serve, threaded=True)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        where = f"<LocationConstraint>{REGION}</LocationConstraint>"
        where = f"<CreateBucketConfiguration>{where}</CreateBucketConfiguration>"
        made = Client(self.inner).put(f"/{self.name}", base_url=self.url, data=where)
        assert made.status_code == 200, made.text

    def serve(self, environ, start_response):
        request = Request(environ)
        if "X-Amz-Signature" not in request.args or not is_signed(request, time.time()):
            denied = "<Error><Code>SignatureDoesNotMatch</Code></Error>"
            return Response(denied, 403)(environ, start_response)
        if request.method == "PUT" and (request.content_length or 0) > 512:
            self.snapshots.append(time.monotonic())
        return self.inner(environ, start_response)

    def objects(self) -> dict[str, bytes]:
        """All objects, by the server's back door."""
        client = Client(self.inner)
        listed = client.get(f"/{self.name}?list-type=2", base_url=self.url).text
        keys = [part.partition("</Key>")[0] for part in listed.split("<Key>")[1:]]
        return {key: client.get(f"/{self.name}/{quote(key)}", base_url=self.url).data for key in keys}

    def settings(self) -> dict[str, str]:
        return {
            "BACKUP_URL": f"s3://{self.name}/a folder",
            "AWS_ENDPOINT_URL_S3": self.url,
            "AWS_REGION": REGION,
            "AWS_ACCESS_KEY_ID": KEY_ID,
            "AWS_SECRET_ACCESS_KEY": SECRET,
        }

    def close(self) -> None:
        self.server.shutdown()
