"""What findings are called in chest radiograph reports: our own phrases, as data.

``labeller.py`` reads with these. Patterns are regular expressions on lower-case text, matched between word boundaries.
A *concept* is what a phrase names; a *finding* is what a data set labels, made of one concept or several.
"""

from __future__ import annotations

from collections.abc import Mapping

#: Concept -> phrases that name it as a thing that can be there or not.
CONCEPTS: Mapping[str, tuple[str, ...]] = {
    "cardiomegaly": (
        r"cardiomegaly",
        r"(?:cardiac|heart) enlargement",
        r"enlarged (?:heart|cardiac (?:silhouette|shadow|contour|size))",
        r"enlargement of (?:the )?(?:heart|cardiac (?:silhouette|shadow|contour))",
    ),
    "enlarged_mediastinum": (
        r"enlarged (?:cardio[- ]?)?mediastin(?:um|al (?:silhouette|contours?|shadow))",
        r"(?:enlargement|widening) of (?:the )?(?:superior |upper )?(?:cardio[- ]?)?mediastin(?:um|al \w+)",
        r"(?:cardio[- ]?)?mediastinal (?:widening|enlargement)",
        r"widened (?:superior |upper )?mediastin(?:um|al \w+)",
    ),
    "opacity": (
        r"opacit(?:y|ies)",
        r"opacifications?",
        r"air ?space (?:disease|process|changes?)",
        r"air-space disease",
        r"ground[- ]glass",
        r"haziness",
        r"interstitial (?:markings|prominence|thickening|disease|changes?|pattern)",
        r"reticular (?:markings|pattern|changes?)",
        r"(?:lung|pulmonary|parenchymal|airspace|basilar|lobe|retrocardiac|perihilar) densit(?:y|ies)",
    ),
    "infiltrate": (r"infiltrat(?:es?|ions?|ive)",),
    "mass": (
        r"(?<!thyroid )(?<!pericardial )(?<!wall )(?<!breast )(?<!body )mass(?:es)?(?! effect)",
        r"mass[- ]?like",
        r"neoplasms?",
        r"neoplastic",
        r"tumou?rs?",
        r"carcinoma",
        r"malignan(?:t|cy)",
        r"metasta(?:sis|ses|tic)(?! to)",
    ),
    "nodule": (
        r"nodules?",
        r"nodular",
    ),
    "lesion": (
        r"(?:lung|pulmonary|parenchymal|cavitary|cavitating) lesions?",
        r"cavit(?:y|ies|ations?|ary)",
    ),
    "edema": (
        r"(?<!subcutaneous )(?<!tissue )o?edema",
        r"(?:congestive )?heart failure",
        r"chf",
        r"cardiac decompensation",
        r"(?:pulmonary |central |venous )*(?:vascular|venous|pulmonary) (?:congestion|engorgement)",
        r"fluid overload",
        r"congestive changes?",
    ),
    "consolidation": (r"consolidat(?:ions?|ive|ed)",),
    "pneumonia": (
        r"(?:broncho)?pneumonias?",
        r"pneumonic",
        r"infectious (?:process|disease|etiology|infiltrates?|focus|change)",
        r"(?<!covid )(?<!covid-19 )(?<!granulomatous )(?<!histoplasmosis )(?<!fungal )infections?",
    ),
    "atelectasis": (
        r"atelecta(?:sis|ses|tic)",
        r"(?:lung|lobar|lobe|segmental|pulmonary) collapse",
        r"collapse of (?:the )?(?:\w+ ){0,4}(?:lung|lobes?)",
        r"collapsed (?:lung|lobe)",
    ),
    "pneumothorax": (
        r"(?:hydro)?pneumothora(?:x|ces|xes)",
        r"ptx",
        r"pleural air",
        r"air in the pleural spaces?",
    ),
    "effusion": (
        r"(?<!pericardial )(?<!joint )effusions?",
        r"pleural fluid",
        r"fluid (?:\w+ ){0,2}in the pleural spaces?",
        r"hydro(?:pneumo)?thora(?:x|ces)",
        r"haemothorax|hemothorax",
    ),
    "pleural_thickening": (
        r"pleural(?:[- ]parenchymal)? thickening",
        r"thickening of (?:the )?(?:\w+ )?pleura",
        r"thickened pleura",
    ),
    "pleural_other": (
        r"pleural (?:plaques?|scarring|scars?|calcifications?|abnormality)",
        r"pleuro-?parenchymal scarring",
        r"fibrothorax",
        r"calcified pleura",
        r"apical (?:pleural )?cap(?:ping)?",
    ),
    "fracture": (
        r"(?<!catheter )(?<!lead )(?<!wire )fractures?",
        r"fractured (?:\w+ )?(?:ribs?|clavicle|vertebra\w*|bones?)",
    ),
    "device": (
        r"(?:endotracheal|et|nasogastric|ng|orogastric|og|enteric|feeding|gastric|tracheostomy|chest|thoracostomy"
        r"|drainage|nasoenteric|dobb?hoff) tubes?",
        r"ett",
        r"dobb?hoff",
        r"tracheostomy",
        r"pigtail(?: catheter| drain)?",
        r"catheters?",
        r"picc(?: lines?)?",
        r"(?:central|venous|jugular|subclavian|ij|arterial|femoral) (?:venous )?lines?",
        r"central venous access",
        r"port-?a-?cath",
        r"mediport",
        r"chemo ?port",
        r"infusion port",
        r"(?:chest|subcutaneous|vascular) port",
        r"(?:cardiac )?pacemakers?",
        r"pacer",
        r"pacing (?:leads?|wires?|device)",
        r"pacemaker leads?",
        r"a?icd",
        r"defibrillator",
        r"sternotomy wires?",
        r"sternal wires?",
        r"cerclage wires",
        r"(?:surgical|cholecystectomy|vascular|metallic|hemostatic) clips?",
        r"prosthetic (?:\w+ )?valves?",
        r"valve (?:replacement|prosthesis)",
        r"(?:vascular|coronary|bronchial|tracheal|aortic|esophageal) stents?",
        r"(?:spinal|orthopedic|surgical|fixation|fusion) (?:hardware|rods?|screws?)",
        r"swan[- ]ganz(?: catheter)?",
        r"(?:intra-?aortic )?balloon pump",
        r"lvad",
        r"ventricular assist device",
        r"support devices?",
        r"lines?(?:/| / |, | and | & | or )tubes?",
        r"tubes?(?:/| / |, | and | & | or )lines?",
        r"(?:lines?|tubes?|(?:medical |monitoring |implanted )?devices?|hardware)(?= ?[:=?|])",
        r"(?:shoulder )?arthroplasty",
        r"(?:loop|event) recorder",
    ),
    "emphysema": (r"(?<!subcutaneous )(?<!tissue )emphysema", r"emphysematous"),
    "fibrosis": (r"fibrosis", r"fibrotic"),
    "hernia": (r"hernias?", r"herniation"),
    "covid": (r"covid(?:-19)?", r"sars-cov-2"),
    "other_lung": (
        r"granulomas?",
        r"granulomatous",
        r"hyperinflat\w+",
        r"hyperexpan\w+",
        r"copd",
        r"scarring",
        r"scar",
    ),
}

#: Finding, by the names of CheXpert and of NIH ChestX-ray14, -> its concepts. ``No Finding`` follows from all of them.
FINDINGS: Mapping[str, tuple[str, ...]] = {
    "Enlarged Cardiomediastinum": ("enlarged_mediastinum",),
    "Cardiomegaly": ("cardiomegaly",),
    "Lung Opacity": ("opacity", "infiltrate"),
    "Lung Lesion": ("mass", "nodule", "lesion"),
    "Edema": ("edema",),
    "Consolidation": ("consolidation",),
    "Pneumonia": ("pneumonia",),
    "Atelectasis": ("atelectasis",),
    "Pneumothorax": ("pneumothorax",),
    "Pleural Effusion": ("effusion",),
    "Pleural Other": ("pleural_thickening", "pleural_other"),
    "Fracture": ("fracture",),
    "Support Devices": ("device",),
    "Effusion": ("effusion",),
    "Infiltration": ("infiltrate",),
    "Mass": ("mass",),
    "Nodule": ("nodule",),
    "Emphysema": ("emphysema",),
    "Fibrosis": ("fibrosis",),
    "Pleural_Thickening": ("pleural_thickening",),
    "Hernia": ("hernia",),
    "COVID-19": ("covid",),
}

_HEART = (
    r"(?:heart|cardiac)(?! (?:monitor|pacer|pacemaker|device|leads?|valve|surg|failure|decompensation|wires))"
    r"|cardio[- ]?mediastin\w+|cardio[- ]?pericardial \w+"
)
_MEDIASTINUM = r"(?:cardio[- ]?)?mediastin\w+"
_NORMAL = r"(?:normal|unremarkable)"
#: Concept -> what has a size (a subject), how it is said to be too big, and to be doubtful, within a few words.
SIZES: Mapping[str, tuple[str, str, str]] = {
    "cardiomegaly": (
        r"(?:heart|cardiac)(?! (?:monitor|pacer|pacemaker|device|leads?|valve|surg|failure|decompensation|wires))",
        r"enlarged|above normal|(?:is|appears|remains) (?:\w+ )?large"
        r"|increased(?: in size)?(?= *(?:[.,;]|$|since|from|compared))",
        r"borderline|prominent|upper (?:limits? of )?normal|upper limits?|top[- ]normal|high normal",
    ),
    "enlarged_mediastinum": (
        rf"{_MEDIASTINUM}(?! (?:lymph|node|mass|drain|shift|clip))",
        r"enlarged|widened|wide",
        r"borderline|prominent|upper (?:limits? of )?normal|top[- ]normal",
    ),
}
#: Concept -> patterns that say by themselves that it is absent.
DENIALS: Mapping[str, tuple[str, ...]] = {
    "edema": (
        r"vascular (?:engorgement|congestion)(?: \w+){0,4} (?:within|limits of) normal(?: limits)?",
        r"vascular (?:engorgement|congestion)(?: \w+){0,4} within (?:limits of normal|normal limits)",
    ),
    "cardiomegaly": (
        rf"(?:{_HEART})(?:[\s,:=]+(?:- )?(?!not|no|ab|en|inc|upper|than)[\w/-]+){{0,7}}?"
        rf"[\s,:=]+(?:- )?(?:{_NORMAL}(?! position)|not enlarged)",
        rf"{_NORMAL} (?:(?:size|sized|appearance) (?:of )?(?:the )?)?(?:{_HEART})",
    ),
    "enlarged_mediastinum": (
        rf"{_MEDIASTINUM}(?:[\s,:=]+(?:- )?(?!not|no|ab|en|wid|upper|than)[\w/-]+){{0,7}}?"
        rf"[\s,:=]+(?:- )?(?:{_NORMAL}|not (?:enlarged|widened))",
        rf"{_NORMAL} (?:(?:\w+ )?(?:and|size of the) )?{_MEDIASTINUM}",
    ),
    "opacity": (
        r"lungs?(?: fields?| zones?)?(?: ?:| -)?(?: (?:are|is|appears?|remains?|both|bilaterally|grossly|well|and"
        r"|expanded|aerated|otherwise|essentially))* (?<!not )clear(?! of)",
        r"clear (?:lungs?|lung fields?)",
    ),
    "effusion": (r"pleural spaces?(?: (?:is|are|appears?|remains?)| ?:| -) (?:\w+ )?(?:clear|free of fluid)",),
    "device": (r"(?<!not )(?<!not been )extubat(?:ion|ed)",),
    "pneumothorax": (r"pleural spaces?(?: (?:is|are|appears?|remains?)| ?:| -) (?:\w+ )?clear",),
}
#: Concept -> patterns that make it doubtful by themselves.
DOUBTS: Mapping[str, tuple[str, ...]] = {
    "effusion": (
        r"blunting of (?:\w+ ){0,4}costophrenic \w+",
        r"costophrenic \w+ (?:is|are) (?:\w+ )?blunted",
        r"blunted (?:\w+ ){0,2}costophrenic \w+",
    ),
    "fracture": (r"(?:compression|wedge|rib) deformit(?:y|ies)",),
}
#: A film that is said to be abnormal as a whole, whatever is wrong with it.
ABNORMAL_FILM = (
    r"(?<!no )(?<!not )(?<!nor )abnormal (?:chest )?(?:examination|exam|study|radiographs?|film|x-?rays?|chest)",
    r"(?:chest|examination|exam|study|radiographs?|film) (?:is|are) (?:abnormal|not (?:a )?normal)",
)
#: A film that is said to be normal, or free of disease, as a whole.
NORMAL_FILM = (
    r"no (?:radiographic |definite |significant |evidence of |evidence for |acute |active |focal |new )*"
    r"(?:cardio-?pulmonary |cardiac |pulmonary |intrathoracic |thoracic |chest |lung |cardiothoracic |pleural )*"
    r"(?:or pulmonary |or pleural )?(?:abnormal(?:ity|ities)|diseases?|process(?:es)?|findings?|pathology)",
    r"no (?:radiographic )?abnormal findings?",
    r"(?:normal|unremarkable|negative) (?:\w+ ){0,3}(?:chest|examination|exam|study|radiographs?|film|x-?rays?)",
    r"(?:chest|examination|exam|study|radiographs?|film) (?:is |are )?(?:normal|unremarkable|negative)",
)
