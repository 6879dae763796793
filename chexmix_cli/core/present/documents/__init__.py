"""A report as the documents a hospital keeps: DICOM structured reports, PDF, pictures, FHIR.

They carry the identity of the patient and the study that the film's own header states: a document without it belongs
to nobody. They are made only where they are asked for, and nothing of the header goes elsewhere.
"""
