"""The words of a report that deny, doubt or limit what stands beside them, and what ends their reach: as data.

Regular expressions on lower-case text, matched between word boundaries; ``labeller.py`` reads with them.
"""

from __future__ import annotations

_SLIGHT = (
    r"(?:significant|interval|appreciable|substantial|definite|obvious|relevant|major|acute|other|further|large|\w+ly)"
)
#: Begin with a word of denial and deny nothing that follows.
PSEUDO_DENIALS = (
    rf"(?:no|without|not) (?:{_SLIGHT} )*(?:change[sd]?|increase[sd]?|decrease[sd]?|worsening|improve(?:ment|d)"
    r"|progression|difference|different)",
    r"not only",
    r"no doubt",
)
#: In front of what they deny, over a list, up to the end of the clause.
DENIES_AFTER = (
    r"no",
    r"without",
    r"nor",
    r"neither",
    r"free of",
    r"clear of",
    r"negative for",
    r"absence of",
    r"absent",
    r"lack of",
    r"devoid of",
    r"(?:do|does|did) not (?:show|demonstrate|reveal|have|see|suggest|represent|identify)",
    r"not (?:show\w*|demonstrat\w+|reveal\w*|consistent with|compatible with|suggestive of|due to)",
    r"not an?",
    r"no longer",
    r"(?<!near )(?<!near-)(?:complete |interval |interval complete )?resolution of",
    r"(?:interval |status post |after |post[- ]|s/p )?removal of",
    r"(?:has|have) been removed",
    r"removed",
)
#: Behind what they deny, with no other statement between.
DENIED_BEFORE = (
    r"(?:is|are|was|were|has|have) (?:\w+ )?(?:no longer|not)(?: \w+)? (?:been )?(?:seen|identified|present|evident"
    r"|visible|visuali[sz]ed|apparent|demonstrated|noted|detected|appreciated|shown|observed)",
    r"not (?:seen|identified|present|evident|visible|visuali[sz]ed|apparent|demonstrated|detected)",
    r"(?:is|are) (?:now )?absent",
    r"(?:is|are) (?:very |most |considered |thought )?unlikely",
    r"unlikely",
    r"(?:has|have|had)(?: been)?(?: now| since| completely| entirely| interval\w*| fully)* "
    r"(?:resolved|cleared|removed)",
    r"(?:is|are|was|were)(?: now| since| completely| entirely| fully)* (?:resolved|removed|excluded|ruled out)",
    r"(?:has|have) been (?:excluded|ruled out)",
    r"no longer (?:seen|present|identified|visible|visuali[sz]ed|evident)",
    r"resolved",
)
#: In front of what they make doubtful.
DOUBTS_AFTER = (
    r"(?:may|might|could) (?:also )?be (?:\w+ )?(?:secondary|due|related) to",
    r"may (?:also )?(?:represent|reflect|be|indicate|relate|suggest)",
    r"might (?:represent|reflect|be)",
    r"could (?:also )?(?:represent|reflect|be|indicate|relate)",
    r"(?:can(?:no|')?t|can not|unable to|difficult to) "
    r"(?:completely |entirely |fully |definitively )?(?:exclude|rule out)",
    r"not (?:exclude|rule out)",
    r"possibl[ey]",
    r"possibility of",
    r"probabl[ey]",
    r"likely",
    r"presumabl[ey]",
    r"presumed",
    r"perhaps",
    r"questionable",
    r"question(?: of)?",
    r"questioned",
    r"alternatively",
    r"suspected",
    r"suspicious for",
    r"suspicion (?:of|for)",
    r"concern(?:ing)? for",
    r"worrisome for",
    r"equivocal",
    r"versus",
    r"vs\.?",
    r"with or without",
    r"rather than",
    r"borderline",
    r"favou?r(?:s|ed|ing)?",
    r"differential (?:\w+ ){0,3}includ(?:es?|ing)",
    r"and/or",
)
#: Behind what they make doubtful.
DOUBTED_BEFORE = (
    r"(?:cannot|can not|can't|could not) be (?:\w+ )?(?:excluded|ruled out)",
    r"(?:is|are) not (?:\w+ )?excluded",
    r"not (?:\w+ )?excluded",
    r"difficult to exclude",
    r"(?:is|are) (?:also )?(?:possible|suspected|questioned|likely"
    r"|probable|favou?red|a possibility|(?:a|another) consideration|questionable|not entirely excluded)",
    r"(?:should|could|may|might) be (?:considered|present)",
    r"(?:may|might|could) be present",
    r"versus",
    r"vs\.?",
)
#: In front of what is only spoken of: asked, remembered or to be looked for, not seen.
SPOKEN_OF_ONLY = (
    r"history of",
    r"h/o",
    r"to (?:exclude|rule out|evaluate|assess|ensure|document|confirm|look)(?: for)?",
    r"evaluate for",
    r"evaluation (?:for|of)",
    r"(?:concern|question|assess|check|screening) (?:for|of)(?= \w+ \?)",
    r"r/o",
    r"rule out",
    r"correlate (?:\w+ )?for",
    r"factors for",
    r"if",
    r"(?:could|may|might|can) obscure",
    r"consider",
    r"risk of",
    r"treated for",
    r"treatment (?:for|of)",
    r"if there is (?:\w+ )?concern for",
    r"signs? and symptoms of",
)
#: Behind what is only spoken of.
SPOKEN_OF_BEFORE = (r"may not be (?:seen|demonstrated|visible|visuali[sz]ed|identified|apparent|detected)",)
#: End the reach of what stands in front.
BREAKS = (
    r";",
    r"\bbut\b",
    r"\bhowever\b",
    r"\balthough\b",
    r"\bthough\b",
    r"\bwhile\b",
    r"\bwhereas\b",
    r"\bexcept\b",
    r"\bother than\b",
    r"\baside from\b",
    r"\bapart from\b",
    r"\bbesides\b",
    r"\bthere (?:is|are|has|have)\b",
    r", with\b",
    r"\bwhich\b",
    r"\bsecondary to\b",
    r"\bdue to\b",
    r"\bbecause of\b",
    r"\bin the setting of\b",
    r"\bsuperimposed on\b",
    r"\bas well as\b(?= (?:a |an )?(?:mild|moderate|small|large))",
    r":",
)
#: Behind a comma or "and", begin a statement of their own, unless an "or" shows that the list goes on.
OPENERS = (
    r"mild(?:ly)?",
    r"moderate(?:ly)?",
    r"small",
    r"stable",
    r"unchanged",
    r"persistent",
    r"again",
    r"minimal",
    r"bibasilar",
    r"increased",
    r"decreased",
    r"improved",
    r"worsening",
    r"low",
    r"possible",
    r"probable",
    r"likely",
    r"questionable",
    r"residual",
    r"chronic",
    r"status post",
    r"s/p",
    r"calcified",
    r"mildly",
    r"trace",
    r"tiny",
    r"subtle",
    r"linear",
)
