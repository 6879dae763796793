"""Probabilities of findings as a DICOM measurement report: TID 1500 (PS3.16) in Comprehensive SR, by highdicom.

A finding is a measurement group with its code, its probability (no units, 0 to 1) and, where a threshold is known,
whether it counts as present. The threshold stands among the parameters of the algorithm.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import ComprehensiveSRStorage

from chexmix_cli.core.data.dicom.file import quiet
from chexmix_cli.core.errors import DataError, Reason, missing_package
from chexmix_cli.core.present.documents.findings import LOCAL_SCHEME, FindingScore, finding_scores
from chexmix_cli.core.present.documents.header import (
    MANUFACTURER,
    Maker,
    StudyHeader,
    derived_uid,
    finish_document,
    new_document,
)
from chexmix_cli.core.present.documents.text_report import COMMENT, describe_draft
from chexmix_cli.core.text.disclaimer import GENERATED

_PROBABILITY = ("122157", "DCM", "Probability")
_PROCEDURE = ("168537006", "SCT", "Plain radiography")
_PRESENCE = ("presence", LOCAL_SCHEME, "Presence by the model's threshold")
_PRESENT, _ABSENT = ("52101004", "SCT", "Present"), ("272519000", "SCT", "Absent")


@quiet()
def measurement_sr(record: Mapping[str, Any], study: StudyHeader, maker: Maker) -> Dataset:
    """Return a record's probabilities as a measurement report, finished.

    Args:
        record: of ``chexmix generate-report`` with a head, or of ``chexmix classify``.
        study: whose it is.
        maker: who made it.

    Raises:
        DataError: if the record has no probabilities, or the source's header cannot be written.
        MachineError: if highdicom is not installed.
    """
    scores = finding_scores(record)
    if not scores:
        raise DataError(Reason.BAD_RECORD, "no probabilities of findings", expected="a model with a head of findings")
    try:
        import highdicom.sr as sr
    except ImportError:
        raise missing_package("highdicom", "clinical") from None
    context = sr.ObservationContext(
        observer_device_context=sr.ObserverContext(
            observer_type=_coded(("121007", "DCM", "Device")),
            observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
                uid=maker.device_uid,
                name=MANUFACTURER,
                manufacturer_name=MANUFACTURER,
                model_name=maker.model,
                serial_number=maker.weights_hash,
            ),
        )
    )
    procedures = [
        _coded((item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning))
        for item in study.elements.get("ProcedureCodeSequence", [])
    ]
    content = sr.MeasurementReport(
        observation_context=context,
        procedure_reported=procedures or _coded(_PROCEDURE),
        imaging_measurements=[_group(score, record, study, maker) for score in scores],
        title=_coded(("126000", "DCM", "Imaging Measurement Report")),
        language_of_content_item_and_descendants=sr.LanguageOfContentItemAndDescendants(
            _coded(("en", "RFC5646", "English"))
        ),
    )
    dataset = new_document(study, maker, ComprehensiveSRStorage, "SR", "Probabilities of findings, unverified")
    describe_draft(dataset, study, maker, is_whole=True)
    dataset.update(content[0])
    dataset.ContentSequence.append(sr.TextContentItem(_coded(COMMENT), f"{GENERATED}.", "CONTAINS"))
    dataset.CodingSchemeIdentificationSequence = [_local_scheme()]
    return finish_document(dataset, record)


def _group(score: FindingScore, record: Mapping[str, Any], study: StudyHeader, maker: Maker) -> Any:
    """Return a finding's measurement group (TID 1501)."""
    import highdicom.sr as sr

    key = f"{study.study_uid} {study.image} {record['id']} {maker.device_uid} {score.name}"
    parameters = [f"weights {maker.weights_hash}"]
    parameters += [] if score.threshold is None else [f"present from {score.threshold!r}"]
    verdict = [] if score.is_present is None else [_PRESENT if score.is_present else _ABSENT]
    image = study.image
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid=derived_uid("finding", key.encode()), identifier=score.name),
        finding_type=_coded(score.code),
        algorithm_id=sr.AlgorithmIdentification(
            name=f"{MANUFACTURER} {maker.model}",
            version=maker.version,
            parameters=parameters,
            family=_coded(("123110", "DCM", "Artificial Intelligence")),
        ),
        measurements=[
            sr.Measurement(name=_coded(_PROBABILITY), value=score.probability, unit=_coded(("1", "UCUM", "no units")))
        ],
        qualitative_evaluations=[
            sr.QualitativeEvaluation(name=_coded(_PRESENCE), value=_coded(value)) for value in verdict
        ],
        source_images=None if image is None else [sr.SourceImageForMeasurementGroup(image.sop_class, image.instance)],
    )


def _local_scheme() -> Dataset:
    """Return what our own codes are (PS3.3 C.12.1.1.1.1)."""
    item = Dataset()
    item.CodingSchemeDesignator, item.CodingSchemeResponsibleOrganization = LOCAL_SCHEME, MANUFACTURER
    item.CodingSchemeName = "Findings by the names of their labels"
    return item


def _coded(code: tuple[str, str, str]) -> Any:
    from highdicom.sr import CodedConcept

    value, scheme, meaning = code
    return CodedConcept(value=value, scheme_designator=scheme, meaning=meaning)
