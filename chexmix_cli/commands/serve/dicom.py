"""``chexmix serve dicom``: a DICOM node that reports on the radiographs it is sent."""

from __future__ import annotations

import importlib.util
import signal
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from chexmix_cli.commands.shared.command import Call, command
from chexmix_cli.commands.shared.options import MODEL, Bits, Preset
from chexmix_cli.core.errors import ExitCode, SettingsError, missing_package
from chexmix_cli.core.settings.dicom_node import MetricsSettings, ServeDicomSettings

Queue = Annotated[
    Path,
    typer.Option(
        "--queue",
        metavar="DIR",
        show_default=False,
        help="Folder of what is not done yet (mode 0700).",
    ),
]
SendTo = Annotated[
    str,
    typer.Option(
        "--send-to",
        metavar="AE@HOST:PORT",
        show_default=False,
        help="Where structured reports are stored; or the URL of a DICOMweb service, for STOW-RS.",
    ),
]
AeTitle = Annotated[
    str,
    typer.Option("--ae-title", metavar="AE", help="Title of this node, called and calling."),
]
Host = Annotated[
    str, typer.Option("--host", metavar="HOST", help="Address to listen on; others than this machine's need --allow.")
]
Port = Annotated[
    int, typer.Option("--port", metavar="N", min=0, max=65535, help="Port to listen on; 0 takes a free one.")
]
Allow = Annotated[
    list[str] | None,
    typer.Option(
        "--allow",
        metavar="AE@HOST",
        show_default=False,
        help="Who may send; may be repeated. Either part may be *, the host a network. Default: this machine.",
    ),
]


@command(ServeDicomSettings, *MODEL, "seed", "is_json")
def serve_dicom(
    call: Call[ServeDicomSettings],
    queue: Queue,
    send_to: SendTo,
    ae_title: AeTitle = "CHEXMIX",
    host: Host = "127.0.0.1",
    port: Port = 11112,
    allow: Allow = None,
    preset: Preset = None,
    quantize: Bits = None,
) -> int:
    """Report on radiographs that are sent by C-STORE, and send structured reports back.

    A file is on disk before its sender is told so; kill -9 loses no study and doubles none. What happens is written to
    stdout, a line for each event, without patient data. SIGTERM ends it in order.

    Examples:

        chexmix serve dicom --queue q --send-to ORTHANC@127.0.0.1:4242

        chexmix serve dicom --queue q --send-to PACS@10.1.0.5:104 --host 0.0.0.0 --allow PACS@10.1.0.5
    """
    if importlib.util.find_spec("pynetdicom") is None:
        raise missing_package("pynetdicom", "clinical", where="chexmix serve dicom")
    from chexmix_cli.commands.records.streams import Writer
    from chexmix_cli.core.data.dicom.web import DicomwebServer
    from chexmix_cli.library.reports import MARK, Reporter
    from chexmix_cli.serve.access import is_own
    from chexmix_cli.serve.dicom.destinations import Destination, StorageScp, StowServer
    from chexmix_cli.serve.dicom.node import Node, Place
    from chexmix_cli.serve.dicom.peers import check_ae_title, read_address, read_peers
    from chexmix_cli.serve.dicom.reporting import StudyReporter
    from chexmix_cli.serve.tls import client_context, server_context

    check_ae_title(ae_title, "--ae-title")
    if not allow and not is_own(host):
        raise SettingsError(
            f"{host} can be reached by others", where="--host", expected="--allow AE@HOST with it, who may send"
        )
    destination: Destination
    send, tls = call.settings.send, call.settings.tls
    if send_to.startswith(("http://", "https://")):
        if send.tls:
            raise SettingsError("is of application entities", where="send.tls", expected="a URL with https:// alone")
        destination = StowServer(DicomwebServer(send_to, where="--send-to"))
    else:
        context = client_context(tls) if send.tls else None
        destination = StorageScp(read_address(send_to, "--send-to"), ae_title, send, context)
    peers = read_peers(allow or ["*@*"], "--allow")
    place = Place(ae_title=ae_title, host=host, port=port, peers=peers, context=server_context(tls))
    metrics = None if call.settings.metrics.port is None else _metrics(call.settings.metrics)
    run = call.options
    model = run.open_model(call.settings.input, quantize=call.settings.quantize)
    reporter = StudyReporter(Reporter(model, call.settings.decode, None, seed=run.seed), call.settings.documents)
    run.console.note(MARK)
    if metrics is not None:
        metrics.describe(model.weights.name, model.weights.fingerprint)
    node = Node(queue, place, reporter, destination, call.settings, _note(Writer(run.is_json)), metrics)
    return _run(node)


def _metrics(settings: MetricsSettings) -> Any:
    from chexmix_cli.serve.access import read_token

    try:
        from chexmix_cli.serve.dicom.metrics import NodeMetrics
    except ModuleNotFoundError as error:
        raise missing_package(str(error.name), "serve", where="metrics.port") from None
    token = read_token(settings.token_file, settings.host, flag="metrics.token_file", host_name="metrics.host")
    return NodeMetrics(token)


def _note(writer: Any) -> Callable[..., None]:
    """Return what writes an event to stdout."""

    def note(event: str, **about: object) -> None:
        now = datetime.now(UTC)
        words = " ".join(f"{name}={value}" for name, value in about.items())
        record = {"time": now.isoformat(timespec="milliseconds"), "event": event, **about}
        writer.write(record, f"{now.astimezone():%H:%M:%S} {event}  {words}")

    return note


def _run(node: Any) -> int:
    """Run the node until a signal stops it; a second one is taken as ever."""
    received: list[int] = []
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def stop(number: int, _: object) -> None:
        received.append(number)
        node.stop()
        for other, handler in kept.items():
            signal.signal(other, handler)

    for number in kept:
        signal.signal(number, stop)
    try:
        node.run()
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
    return ExitCode.INTERRUPTED if signal.SIGINT in received else ExitCode.DONE
