"""Which language a text is in, by the little words that every sentence needs.

A count of function words tells prose of the languages below apart from a paragraph on. It says nothing of others: they
come out as unknown, as do lists of names and numbers. Nothing is downloaded or learnt, and every answer can be
recalculated by hand.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from allod.core.stages import WORD

LEAST_PERMILLE = 80  # of the words must be function words of the language, before it is named

WORDS_IN_RUN = 5

_FUNCTION_WORDS = {
    "cy": "a ac ag am ar at beth bod bydd chi dim dros ei eich eu fe fel fi gan gyda hefyd hi hon hwn hyn i iawn "
    "ich mae mewn mwy na nad nhw ni nid o oedd oes ond os pan roedd rydym sy sydd trwy un wedi wrth y ydy yn "
    "yng ym yr",
    "da": "af alle at blev da de deg dem den der deres det dig dog du efter eller en end er et for fra få før ham "
    "han har havde have hende her hos hun hvad hvor i ikke ind jeg kan man med meget men mig min nu når og "
    "også om op os på sig sin skal som så til ud under var ved vi vil være",
    "de": "aber alle als also am an auch auf aus bei bin bis da das dass dem den der des die doch du durch ein eine "
    "einem einen einer er es für haben hat hatte ich ihr im in ist ja kann mich mir mit nach nicht noch nur "
    "oder sein sich sie sind so über um und uns unter von vor war was wenn wer werden wie wir wird wurde zu "
    "zum zur",
    "en": "a about all an and any are as at be been but by can could do for from had has have he her him his how i "
    "if in into is it its may me more must my no nor not of on one or other our out shall she should so some "
    "such than that the their them then there these they this to up upon was we were what when which who will "
    "with would you your thou thee thy",
    "es": "a al algo ante antes como con contra cuando de del desde donde durante e el ella ellos en entre era es "
    "esa ese eso esta este esto fue ha hay la las le les lo los me mi muy más ni no nos o para pero por "
    "porque que se si sin sobre son su sus también te tiene todo un una y ya yo",
    "fr": "a au aux avec ce ces cette comme dans de des deux du elle elles en est et eu il ils je la le les leur "
    "lui mais me même mon ne nous on ont ou où par pas plus pour qu que qui sa sans se ses si son sont sur ta "
    "te tout très un une vous y à était été être",
    "ga": "a ach ag agus an ann ar as bhfuil bhí chuig chun de do don faoi freisin gan go i is isteach leis linn "
    "mar mé na nach nár ní níl níor nó ó roimh sa san sé seo siad sin sí tar thar tá tú um ón",
    "gd": "a ach aig agus air an ann anns aon bha bho chan cha dha dhan do e ged gu gun gur i iad is le leis mar mi "
    "mo na nach nan nam oir ri sa seo sin siad thu tha thug uile",
    "it": "a ad al alla anche che chi ci come con cui da dal dalla degli dei del della delle di dove e ed era "
    "essere fu gli ha hanno i il in io la le lei lo loro lui ma mi nel nella non o per perché più quando "
    "quella questo quello se si sono su sua suo tra un una uno è",
    "nl": "aan al als bij dan dat de der deze die dit doch doen door dus een en er ge geen had heb hebben heeft het "
    "hij hoe hun ik in is je kan maar me meer men met mij mijn na naar niet nog nu of om omdat ons onder ook "
    "op over te tot u uit uw van veel voor wat we werd wij wordt worden zal ze zich zij zijn zo zou",
    "pl": "aby ale bardzo bez był była było być ci co czy dla do gdy gdzie go i ich im jak jako je jego jej jest "
    "jeszcze już kiedy która które który ma mi może na nad nie niż o od po pod przez przy się są ta tak także "
    "tam te tego tej ten to tu ty w we wszystko z za ze że",
    "pt": "a ao aos as até com como da das de dela dele do dos e ela ele em entre era essa esse esta este eu foi "
    "foram há isso já lhe mais mas me mesmo meu muito na nas nem no nos não o os ou para pela pelo por qual "
    "quando que quem se sem ser seu sua são só também te tem um uma você à é",
    "sv": "alla att av blev de dem den denna deras det dig du där då efter ej eller en er ett från för ha hade han "
    "hans har henne hon honom hur här i icke in inom inte jag kan kunde man med mellan men mig min mot mycket "
    "ni nu när och om oss på sedan sig sin ska skulle som så till under upp ut var vara vi vid vilken vill är "
    "över",
}  # fmt: skip

_WORDS_OF = {language: frozenset(words.split()) for language, words in _FUNCTION_WORDS.items()}

LANGUAGES = frozenset(_WORDS_OF)
"""The languages that are told apart, by their codes of ISO 639-1."""


def words_of(text: str) -> list[str]:
    """The words of a text, in small letters and in order."""
    return WORD.findall(text.lower())


def runs_of(words: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Every run of five words, from each word on; none of a text that has fewer."""
    return zip(*(words[first:] for first in range(WORDS_IN_RUN)), strict=False)


def language_of(words: list[str]) -> str | None:
    """The language whose function words are the largest share of `words`; None if that is too small to tell."""
    if not words:
        return None
    counts = Counter(words)
    share = {language: sum(map(counts.__getitem__, known)) for language, known in _WORDS_OF.items()}
    best = max(sorted(share), key=share.__getitem__)
    return best if 1000 * share[best] >= LEAST_PERMILLE * len(words) else None
