"""Studies that were reviewed, and what the page exports of them: the browser's tests make it, the readers' read it."""

from __future__ import annotations

from typing import Any

#: Quotes, commas, line breaks, what a spreadsheet would compute, letters of other scripts, the end of a script.
NASTY = '=1+1, "quoted"\r\nsecond line\n</script><b>Größe</b> \u2028 end'
#: Records of the page's studies, in its order.
RECORDS: list[dict[str, Any]] = [
    {"id": "a/1", "report": "FINDINGS: Clear lungs.\nIMPRESSION: Normal.", "study": "a"},
    {"id": "=b", "report": "FINDINGS: Opacity, right."},
    {"id": "c", "report": "Unsure."},
    {"id": "d", "report": "Nobody looked at this."},
    {"id": "'-e", "report": "'-5 and clear."},
]
FILES = {"a/1": "sub/a1.png", "=b": "=b.png", "c": "c.png", "d": "d.png", "'-e": "'-e.png"}
FINDINGS = {"Pneumonia": 0.7, "Pleural Effusion": 0.2}

#: What the reader did: a/1 and '-e accepted, =b edited to NASTY and labelled, c rejected.
LABELS = {"Pneumonia": 1, "Pleural Effusion": 0}
JSON_LINES = (
    '{"id":"a/1","file":"sub/a1.png","study":"a","view":"PA","split":"train","decision":"accepted",'
    '"report":"FINDINGS: Clear lungs.\\nIMPRESSION: Normal.",'
    '"model_prediction":"FINDINGS: Clear lungs.\\nIMPRESSION: Normal.","labels":{}}\n'
    '{"id":"=b","file":"=b.png","view":"PA","split":"train","decision":"edited",'
    '"report":"=1+1, \\"quoted\\"\\nsecond line\\n</script><b>Größe</b> \u2028 end",'
    '"model_prediction":"FINDINGS: Opacity, right.","labels":{"Pneumonia":1,"Pleural Effusion":0}}\n'
    '{"id":"c","file":"c.png","view":"PA","split":"train","decision":"rejected","report":null,'
    '"model_prediction":"Unsure.","labels":{}}\n'
    '{"id":"\'-e","file":"\'-e.png","view":"PA","split":"val","decision":"accepted","report":"\'-5 and clear.",'
    '"model_prediction":"\'-5 and clear.","labels":{}}\n'
)
CSV = (
    "\ufeffid,file,study,view,split,decision,report,model_prediction,labels.Pneumonia,labels.Pleural Effusion\r\n"
    'a/1,sub/a1.png,a,PA,train,accepted,"FINDINGS: Clear lungs.\nIMPRESSION: Normal.",'
    '"FINDINGS: Clear lungs.\nIMPRESSION: Normal.",,\r\n'
    '\'=b,\'=b.png,,PA,train,edited,"\'=1+1, ""quoted""\nsecond line\n</script><b>Größe</b> \u2028 end",'
    '"FINDINGS: Opacity, right.",1,0\r\n'
    "c,c.png,,PA,train,rejected,,Unsure.,,\r\n"
    "''-e,''-e.png,,PA,val,accepted,''-5 and clear.,''-5 and clear.,,\r\n"
)
