"""The words of a report that deny, doubt or limit what stands beside them, and what ends their reach: as data.

Regular expressions on lower-case text, matched between word boundaries; ``scopes.py`` reads with them. Of two that
overlap the longer one counts, so an exception to a phrase ("partial resolution of") is a longer phrase.
"""

from __future__ import annotations

from collections.abc import Mapping

PRESENT, ABSENT, UNCERTAIN = 1, 0, -1
#: Asked, remembered or to be looked for: neither seen nor denied.
SPOKEN_OF = None

_SLIGHT = (
    r"(?:significant|interval|appreciable|substantial|definite|obvious|relevant|major|acute|other|further|large"
    r"|noticeable|\w+ly)"
)
_FULLY = r"(?:completely|entirely|fully|definitively|definitely|confidently|reliably|totally|absolutely|convincingly)"
_RULE_OUT = r"(?:exclude|rule[- ]?out|discount|eliminate|dismiss)"
_RULED_OUT = r"(?:excluded|ruled[- ]?out|discounted|eliminated|dismissed)"
_PARTLY = (
    r"(?:near(?:ly)?|almost|subtotal|significant(?:ly)?|partial(?:ly)?|partly|incomplete(?:ly)?|largely|mostly|substantial(?:ly)?|ongoing"
    r"|continu(?:ed|ing)|some|gradual(?:ly)?|further|slow(?:ly)?|moderate(?:ly)?|mild(?:ly)?|slight(?:ly)?)"
)
_GONE = r"(?:resolution|clearing|clearance|disappearance|resorption)"
_HAS_GONE = r"(?:resolved|cleared|disappeared|vanished|gone|resorbed)"
_SEEN = (
    r"(?:seen|identified|present|evident|visible|visuali[sz]ed|apparent|demonstrated|noted|detected|appreciated|shown"
    r"|observed|suspected|found|recogni[sz]ed)"
)
#: What an answer ends with: its last word, before the end of the clause.
_END = r"(?= *(?:[.,;)\]!?|]|$| (?:and|but)\b))"

#: Hold a word of denial or of an end, and deny nothing.
PSEUDO_DENIALS = (
    rf"(?:no|without|not) (?:{_SLIGHT} )*(?:change[sd]?|increase[sd]?|decrease[sd]?|worsening|worse|improve(?:ment|d)"
    r"|progression|difference|different)(?: in| of| from| to)?",
    rf"(?:no|without) (?:{_SLIGHT} )*enlargement of(?! (?:the )?(?:heart|cardi|medias))",
    r"not only",
    r"(?:no|without) doubt",
    r"no (?:more|less|greater|larger|smaller) than",
    r"gram[- ]negative",
    rf"(?:{_PARTLY} )+(?:interval )?(?:(?:complete|total) )?{_GONE} of",
    rf"{_PARTLY}[- ](?:complete|total) (?:interval )?{_GONE} of",
    rf"(?:no|without|lack of|not) (?:\w+ )?{_GONE}(?: of)?",
    rf"(?:not|never)(?: yet| been| {_FULLY}| \w+ly)* {_HAS_GONE}",
    rf"{_PARTLY}(?: completely| entirely| fully)? {_HAS_GONE}",
    rf"(?:has|have|had|is|are|was|were) (?:{_PARTLY} )+(?:completely |entirely |fully )?{_HAS_GONE}",
    r"not (?:yet )?been removed",
    rf"not previously {_SEEN}",
    rf"(?:not|never) {_SEEN} (?:on|in) (?:the |any )?(?:prior|previous|earlier|comparison|old|older|remote|last)",
    rf"(?<=, )not {_SEEN} (?:on|in) (?:the )?(?:lateral|frontal|pa|ap)",
)
#: In front of what they deny, over a list, up to the end of the clause; and in front of what is only spoken of.
FORWARD: Mapping[int | None, tuple[str, ...]] = {
    ABSENT: (
        r"no(?! *[.,;)\]])",
        r"(?:no|none|absent|negative|denied):",
        r"without",
        r"nor",
        r"neither",
        r"free (?:of|from)",
        r"clear of",
        r"negative for",
        r"absence of",
        r"absent(?! *[.,;)\]])",
        r"lack of",
        r"devoid of",
        r"fails? to (?:show|demonstrate|reveal)",
        r"failed to (?:show|demonstrate|reveal)",
        r"(?:do|does|did) not (?:show|demonstrate|reveal|have|see|suggest|represent|identify|look like"
        r"|appear to (?:be|have))",
        r"(?:do|does|did)n't (?:show|demonstrate|reveal|have|see|suggest|represent|identify)",
        r"(?:cannot|can not|can't) (?:see|identify|detect|appreciate)",
        r"not (?:show\w*|demonstrat\w+|reveal\w*|consistent with|compatible with|suggestive of|due to|see)",
        r"not an?",
        r"not (?:suspicious|concerning|worrisome) for",
        r"no longer",
        r"unlikely(?! *[.,;)\]]| (?:given|in|but|as|and|for|with|on|at|however)\b)",
        r"(?:(?:very|most|highly) )?unlikely to (?:be|represent|reflect|indicate|have)",
        rf"(?:no|without) (?:{_SLIGHT} |specific |high |clinical |radiographic )*(?:concern|suspicion|question)"
        r" (?:of|for)",
        r"(?:low|very low|little|minimal) (?:\w+ )?(?:suspicion|concern|likelihood|probability|chance) (?:of|for|that)",
        r"(?:excludes|excluding|rules out|ruling out)",
    ),
    UNCERTAIN: (
        r"(?:may|might|could) (?:also )?be (?:\w+ )?(?:secondary|due|related) to",
        r"(?:may|might|could|can) (?:also |well |simply |still )?(?:represent|reflect|indicate|relate|suggest|mimic"
        r"|be(?! (?:\w+ )?(?:secondary|due|related) to))",
        rf"(?:can(?:no|')?t|can not|could not|couldn't|would not|wouldn't|do(?:es)? not|did not|doesn't|not) "
        rf"(?:{_FULLY} )?{_RULE_OUT}",
        rf"(?:unable|not able|not possible|impossible|difficult|hard|insufficient|inadequate|inability) to "
        rf"(?:{_FULLY} )?{_RULE_OUT}",
        rf"(?:cannot|can not|can't|could not|unable to) (?:{_FULLY} )?(?:be certain (?:of|about)|be sure (?:of|about))",
        r"(?:may|might|could|would) (?:also )?include",
        r"(?:possibly|probably|likely|perhaps|presumably) (?:secondary|due|related) to",
        r"possibl[ey](?! (?:secondary|due|related) to)",
        r"(?:not excluded|possible|probable|likely|suspected):",
        r"exclusion of",
        r"more likely than",
        r"possibility (?:of|for)",
        r"probabl[ey](?! (?:secondary|due|related) to)",
        r"probability of",
        r"likely(?! (?:secondary|due|related) to)",
        r"(?:is|are|was|were) not likely",
        r"less likely",
        r"presumabl[ey]",
        r"presumed",
        r"perhaps",
        r"maybe",
        r"doubtful",
        r"dubious",
        r"questionable",
        r"question(?: of)?",
        r"questioned",
        r"uncertain",
        r"alternatively",
        r"suspected",
        r"suspicious for",
        r"(?:suspicion|suspicions|raises? suspicion) (?:of|for)",
        r"concern(?:s|ing)?(?: is| remains)? (?:for|of|about)",
        r"worrisome for",
        r"equivocal",
        r"versus",
        r"vs\.?",
        r"with or without",
        r"rather than",
        r"borderline",
        r"favou?r(?:s|ed|ing)?",
        r"(?:differential|considerations?) (?:\w+ ){0,3}includ(?:es?|ing)",
        r"differential diagnos[ie]s(?: (?:is|are|would be))?",
        r"and/or",
        r"(?:clinical(?:ly)? )?correlat(?:e|ion)(?: \w+){0,2} (?:for|to exclude|to rule out)",
        r"consider(?:ation)?(?: of| for)?",
        r"(?<!\S)\?",
    ),
    SPOKEN_OF: (
        r"history of",
        r"(?:in detecting|for detection of)",
        r"h/o",
        r"hx of",
        rf"to (?:{_FULLY} )?(?:exclude|rule out|evaluate|assess|ensure|document|confirm|look)(?: for)?"
        rf"(?! (?:\w+ )?{_GONE})",
        r"evaluate for",
        r"evaluation (?:for|of)",
        r"(?:concern|question|assess|check|screening) (?:for|of)(?= \w+ \?)",
        r"r/o",
        r"rule[- ]out",
        r"exclude",
        rf"to (?:allow|ensure|confirm|document|assess|see|follow)(?: for| to)?(?: \w+)? {_GONE}(?: of)?",
        r"factors for",
        r"if",
        r"(?:could|may|might|can) (?:obscure|mask|hide)",
        r"(?:risk|chance) (?:of|for)",
        r"at risk (?:of|for)",
        r"treated for",
        r"treatment (?:for|of)",
        r"if there is (?:\w+ )?concern for",
        r"(?:signs? (?:and|or) )?symptoms of",
        r"(?:prior|previous|remote|old) (?:\w+ ){0,3}?(?=(?:broncho)?pneumonia|infecti)",
    ),
}
#: In front of what has gone or been taken out; a comma, or "with", ends their reach.
ENDED = (
    rf"(?:complete |interval |interval complete |complete interval |full )?{_GONE} of",
    r"(?:interval |status post |after |post[- ]|s/p )?removal of",
    r"(?:has|have) been removed",
    r"removed",
    r"(?:completely |fully |previously )?resolved",
)
#: End the reach of those, beside what ends that of all.
ENDED_BREAKS = (r"after", r"following", r"since", r"status post", r"s/p", r"post", r"compared")
#: Behind what they deny, doubt or only speak of, with no other statement between.
BACKWARD: Mapping[int | None, tuple[str, ...]] = {
    ABSENT: (
        rf"(?:is|are|was|were|has|have) (?:\w+ )?(?:no longer|not)(?: \w+)? (?:been )?{_SEEN}",
        rf"(?:is|are|was|were)n't (?:\w+ )?{_SEEN}",
        rf"(?:not|never) (?:been )?(?!previously )(?:\w+ly )?{_SEEN}",
        rf"none (?:is |are |was )?{_SEEN}",
        rf"no longer {_SEEN}",
        r"(?:is|are) (?:now )?absent",
        r"(?:is|are) (?:very |most |highly |considered |thought |felt )*(?:to be )?unlikely",
        r"(?:very |most |highly )?unlikely",
        rf"(?:has|have|had)(?: been| now| since| completely| entirely| interval\w*| fully)* (?:{_HAS_GONE}|removed)",
        rf"(?:is|are|was|were)(?: now| since| completely| entirely| fully)* (?:{_HAS_GONE}|removed)",
        rf"(?:is|are|was|were|has been|have been) (?:\w+ly )?{_RULED_OUT}",
        rf"(?:(?:completely|fully|now) )?{_HAS_GONE}",
        rf"(?:no|none|nil|nope|negative|neg|absent|false|n|0|not there){_END}",
        rf"(?:none|nil)(?: \w+){{1,3}}{_END}",
        rf"no (?:\w+ )?(?:evidence|signs?){_END}",
        rf"removed{_END}",
        rf"(?:very )?(?:low|little|minimal) (?:\w+ )?(?:suspicion|likelihood|probability){_END}",
        rf"(?:cannot|can not|can't|could not) be {_SEEN}",
        r"\(-\)",
    ),
    UNCERTAIN: (
        rf"(?:can(?:no|')?t|can not|could not|couldn't|would not|wouldn't|may not|might not|should not) be (?:\w+ )?"
        rf"{_RULED_OUT}",
        rf"(?:is|are|has|have) not (?:been )?(?:\w+ )?{_RULED_OUT}",
        rf"(?:not|incompletely|never) (?:\w+ )?{_RULED_OUT}",
        rf"(?:difficult|hard|impossible|not possible) to (?:{_FULLY} )?{_RULE_OUT}",
        r"(?:is|are|was|were|remains?)(?: still| also| then| therefore| strongly)? (?:possible|suspected|questioned"
        r"|likely|probable|favou?red|a possibility|a concern|(?:a|another) consideration|in the differential"
        r"|questionable|not (?:entirely|completely|fully) excluded|doubtful|uncertain|equivocal|indeterminate"
        r"|to be considered)",
        r"(?:should|could|may|might|must|can) (?:also )?be (?:considered|present|suspected|entertained|questioned)",
        rf"(?:possibl[ey]|probabl[ey]|likely|suspected|suspicious|questionable|questioned|equivocal|uncertain"
        rf"|indeterminate|maybe|doubtful|borderline|less likely|not likely|unclear){_END}",
        rf"(?:cannot|can not|can't|could not|unable to) (?:{_FULLY} )?{_RULE_OUT}{_END}",
        r"(?:is|are) not likely",
        r"(?:would|could|may|might) be (?:a|an|another) (?:\w+ )?(?:consideration|possibility|concern)",
        r"if present",
        rf"not well[- ]{_SEEN}",
        r"\(\?\)",
        r"\?\?+",
    ),
    SPOKEN_OF: (
        r"(?:may|might|could) be (?:missed|overlooked|obscured|masked)",
        r"may not be (?:seen|demonstrated|visible|visuali[sz]ed|identified|apparent|detected)",
        rf"(?<=[:=] )(?:n/?a|not applicable|unknown|not stated|not reported){_END}",
        r"not (?:well |adequately |optimally )?(?:assessed|evaluated|assessable|evaluable)",
        r"(?:cannot|can not|can't|could not) be (?:\w+ )?(?:assessed|evaluated|determined)",
        r"(?:unable|not able) to (?:assess|evaluate|determine)",
        r"see (?:above|below|findings|impression)",
    ),
}
#: Between two things of which either is doubted; a comma ends their reach to the front.
BETWEEN = (r"versus", r"vs\.?", r"(?:is |are )?more likely than")
#: A sort of finding: its denial says nothing of the finding itself.
SORTS = ("tension", "tension component of", "enlarging", "worsening", "progressive", "progressing", "increasing")

#: End the reach of what stands in front.
BREAKS = (
    r";",
    r":",
    r"(?<=[\w)] )-+(?= )",
    r"\bbut\b",
    r"\bhowever\b",
    r"\balthough\b",
    r"\bthough\b",
    r"\bwhile\b",
    r"\bwhereas\b",
    r"\byet\b",
    r"\bexcept\b",
    r"\bother than\b",
    r"\baside from\b",
    r"\bapart from\b",
    r"\bbesides\b",
    r"\bthere (?:is|are|has|have|was|were|remains?)\b",
    r"\bwhich\b",
    r"\bsecondary to\b",
    r"\bdue to\b",
    r"\bbecause of\b",
    r"\bin the setting of\b",
    r"\bsuperimposed on\b",
    r"\bas well as\b(?= (?:a |an )?(?:mild|moderate|small|large))",
)
#: How bad, how old: where one of these follows a comma, "and" or "with", a statement begins, unless an "or" goes on
#: with the list.
GRADES = (
    r"mild(?:ly)?",
    r"moderate(?:ly)?",
    r"severe(?:ly)?",
    r"stable",
    r"unchanged",
    r"persistent",
    r"persisting",
    r"again",
    r"minimal(?:ly)?",
    r"bibasilar",
    r"increased",
    r"decreased",
    r"improved",
    r"improving",
    r"worsening",
    r"worsened",
    r"new",
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
    r"subtle",
    r"linear",
    r"known",
    r"(?:interval )?(?:increase in|worsening of|development of|progression of)",
)
#: How big: the same behind a comma; behind "and" the list may go on ("no pneumothorax and small effusion").
SIZES = (r"small", r"trace", r"tiny", r"slight", r"loculated")
#: Which side, and what is often denied: a comma before one of these leaves open whether the list goes on.
SIDES = (r"left", r"right", r"bilateral", r"bibasal", r"biapical", r"unilateral", r"retrocardiac", r"large")
#: Begin a statement behind a comma.
DETERMINERS = (r"an?", r"the", r"this", r"these", r"that", r"his", r"her", r"it", r"there")
#: Say that something is seen: behind a list they belong to all of it ("no effusion, pneumothorax or mass is seen").
SIGHT = (
    rf"(?:is|are|was|were|has been|have been) (?:also |clearly |again |now |\w+ly )?{_SEEN}",
    r"seen",
    r"identified",
    r"visible",
    r"visuali[sz]ed",
    r"detected",
    r"evident",
    r"demonstrated",
    r"found",
)
#: Verbs of a statement.
VERBS = (
    r"is",
    r"are",
    r"was",
    r"were",
    r"has",
    r"have",
    r"had",
    r"remain(?:s|ed)?",
    r"persist(?:s|ed)?",
    r"appears?",
    r"seems?",
    r"shows?",
    r"continues?",
    r"terminates?",
    r"ends",
    r"projects?",
    r"overlies",
    r"represents?",
)
#: What stands behind one of these explains what stands in front, and takes no doubt back to it.
LINKS = (r"represent\w*", r"reflect\w*", r"suggest\w*", r"(?:consistent|compatible) with", r"indicat\w+", r"favou?r\w*")
#: Make a statement of the words in front of them, without a verb.
PREDICATES = (
    r"tip",
    r"terminating",
    r"overlying",
    r"in (?:place|situ|position)",
    r"present",
    r"noted",
    r"unchanged",
    r"stable",
    r"persistent",
    r"increased",
    r"decreased",
    r"improved",
    r"worsened",
    r"worse",
    r"larger",
    r"smaller",
    r"developed",
    r"yes",
)
#: Deny a finding that is a heading: "Effusion: normal".
ANSWERS_WELL = (r"normal", r"clear", r"unremarkable", r"free")
#: Words between a heading and its answer.
ANSWER_LEADS = (
    r"left",
    r"right",
    r"bilateral(?:ly)?",
    r"both sides",
    r"currently",
    r"now",
    r"there (?:is|are)",
    r"the",
)
#: Begin a question that asks rather than doubts.
ASKING = (
    r"is",
    r"are",
    r"was",
    r"does",
    r"do",
    r"did",
    r"has",
    r"any",
    r"can",
    r"could",
    r"rule",
    r"evaluate",
    r"eval",
)
