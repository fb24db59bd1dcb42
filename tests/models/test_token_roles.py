"""Roles of tokens, against a slow method that knows nothing of offsets: decoding longer and longer beginnings of a prompt."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from reader_folders import FOLDERS
from reader_world import FAMILIES, TEXTS, picture, prompts, reader
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from medrag_lightning.batches import EncodedPrompts, Prompt, Role, Segment, TokenRoles
from medrag_lightning.models.backbones import Pretrained
from medrag_lightning.models.hf_processor import HfProcessor

ROLES = list(Role)
BESIDE_IMAGE = ("<|vision_start|>", "<|vision_end|>")


def text(role: Role, words: str, candidate: int | None = None) -> Segment:
    return Segment(role, words, candidate=candidate)


def image(role: Role, seed: int, candidate: int | None = None) -> Segment:
    return Segment(role, image=picture(seed, (64 if seed % 2 else 40, 40)), candidate=candidate)


def several() -> list[Prompt]:
    """Two and three candidates, seams inside words, texts that look like template words or special tokens, a system message."""
    question, evidence = text(Role.QUESTION, "which user? x"), Role.EVIDENCE_TEXT
    full = (
        text(Role.INSTRUCTION, "user: look at\n"),
        image(Role.EVIDENCE_IMAGE, 1, 0),
        text(evidence, "background: a large effusion\n\n", 0),
        text(evidence, "background: x <image> none, große Änderung\n\n", 1),
        image(Role.EVIDENCE_IMAGE, 2, 2),
        text(evidence, "background: mild\n\n", 2),
        image(Role.QUERY_IMAGE, 3),
        question,
    )
    seams = (text(evidence, "a large effu", 0), text(evidence, "sion on the <|us", 1), text(Role.QUESTION, "er|> left, or</"))
    late = (image(Role.QUERY_IMAGE, 4), question, text(Role.INSTRUCTION, "\n"), image(Role.EVIDENCE_IMAGE, 4, 0))
    return [
        Prompt(full, "", (0.9, 0.5, 0.1)),
        Prompt(full[1:4] + full[6:], "be x <image> brief", (0.7, 0.6)),
        Prompt((*seams, text(Role.QUESTION, "s> nodule?")), "", (0.3, 0.2)),
        Prompt((*late, text(evidence, "no finding", 0), text(Role.QUESTION, "\nanswer:")), "x", (0.4,)),
        Prompt((image(Role.QUERY_IMAGE, 1), image(Role.EVIDENCE_IMAGE, 5, 0), question), "", (0.8,)),
        Prompt((question,)),
    ]


def slow_roles(processor: HfProcessor, prompt: Prompt, ids: list[int], strip: bool) -> list[tuple[int, int]]:
    """(role, document) of each token: the decoded prompt is searched for the segments, beginnings of it tell the places."""
    names = processor.tokenizer.convert_ids_to_tokens(ids)
    in_image = _inside_images(processor, names)
    shown = [[i for i, s in enumerate(prompt.segments) if s.image is not None][n] if n >= 0 else -1 for n in in_image]
    # Image tokens are cut out, so that the text's decoding has one private character in the place of each image.
    ends, words, last = [], "", None
    for place, number in enumerate(shown):
        if number >= 0:
            words += "\ue000" if number != last else ""
        else:
            run = place
            while run > 0 and shown[run - 1] < 0:
                run -= 1
            before = processor.tokenizer.decode(ids[run:place])
            now = processor.tokenizer.decode(ids[run : place + 1])
            words = words[: len(words) - len(before)] + now
        last = number
        ends.append(len(words))
    owner = _search(processor, prompt, words, strip)
    told = []
    for end, number, token in zip(ends, shown, ids, strict=True):
        whose = number if number >= 0 else -1 if token in processor.special_ids else owner[end - 1]
        segment = None if whose < 0 else ([*prompt.segments, text(Role.INSTRUCTION, "system")])[whose]
        told.append((-1, -1) if segment is None else (ROLES.index(segment.role), _number(segment)))
    return told


def _number(segment: Segment) -> int:
    return -1 if segment.candidate is None else segment.candidate


def _inside_images(processor: HfProcessor, names: list[str]) -> list[int]:
    """The number of the image that each token belongs to; its own tokens stand together, with what begins and ends them."""
    mark = processor.tokenizer.convert_ids_to_tokens(processor.image_token_id)
    begins = ("<|vision_start|>", "<fake_token_around_image>", "<start_of_image>")
    ends = ("<|vision_end|>", "<fake_token_around_image>", "<end_of_image>", "[IMG_END]")
    bracketed = any(name in begins for name in names)
    per_image = len(processor.call([processor.processor.image_token], [[picture(1)]], bare=True)["input_ids"][0])
    number, inside, found, run = -1, False, [], 0
    for name in names:
        opens = name in begins if bracketed else name == mark
        if not inside and opens:
            inside, number, run = True, number + 1, 0
            found.append(number)
        elif inside:
            found.append(number)
            run += 1
            done = name in ends if bracketed or "[IMG]" in names else run == per_image - 1
            inside = not done
        else:
            found.append(-1)
    if "<start_of_image>" in names:  # Gemma 3 spells an image with an empty line before and after it
        for i in [i for i, name in enumerate(names) if name == "<end_of_image>"]:
            assert names[i + 1 : i + 3] == ["Ċ", "Ċ"]
            found[i + 1 : i + 3] = [found[i]] * 2
        for i in [i for i, name in enumerate(names) if name == "<start_of_image>"]:
            assert names[i - 2 : i] == ["Ċ", "Ċ"]
            found[i - 2 : i] = [found[i]] * 2
    return found


def _search(processor: HfProcessor, prompt: Prompt, words: str, strip: bool) -> list[int]:
    """The owner of each character: every run of texts is looked for behind the one before."""
    owner, at = [-1] * len(words), 0
    groups: list[list[tuple[int, str]]] = [[(len(prompt.segments), prompt.system)], [(-2, "user")]] if prompt.system else []
    for i, segment in enumerate(prompt.segments):
        joins = groups and groups[-1][-1][0] == i - 1 and segment.image is None and i and prompt.segments[i - 1].image is None
        if segment.image is not None:
            groups.append([(i, "\ue000")])
        elif joins:
            groups[-1].append((i, segment.text))
        else:
            groups.append([(i, segment.text)])
    if not prompt.system:
        at = words.index("user") + 4
    for group in groups:
        joined = processor.escape("".join(words_ for _, words_ in group))
        at = words.index(joined.strip() if strip else joined, at)
        letters = [(number, letter) for number, piece in group for letter in piece]
        if strip:
            while letters[0][1].isspace():
                letters.pop(0)
            while letters[-1][1].isspace():
                letters.pop()
        last = -1
        for number, letter in letters:
            while words[at] != letter:  # a zero-width space that escapes
                owner[at], at = last, at + 1
            owner[at], at, last = number, at + 1, number
    return owner


def check(processor: HfProcessor, asked: list[Prompt], encoded: EncodedPrompts, strip: bool = False) -> TokenRoles:
    roles = encoded.roles
    assert roles is not None
    assert (roles.role_PT.dtype, roles.document_PT.dtype) == (torch.int8, torch.int16)
    assert roles.strength_PK.dtype == torch.float32
    for p, prompt in enumerate(asked):
        real = encoded.mask_PT[p].bool()
        got = list(zip(roles.role_PT[p, real].tolist(), roles.document_PT[p, real].tolist(), strict=True))
        assert got == slow_roles(processor, prompt, encoded.ids_PT[p, real].tolist(), strip), p
        assert bool((roles.role_PT[p, ~real] == -1).all())
        assert bool((roles.document_PT[p, ~real] == -1).all())
    return roles


@pytest.mark.parametrize("share_images", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_roles_are_those_of_the_slow_method(family: str, share_images: bool) -> None:
    processor = reader(family).processor
    for asked in (several(), prompts(), prompts("query_first"), several()[2:]):
        plain = processor.encode_prompts(asked, share_images)
        encoded = processor.encode_prompts(asked, share_images, roles=True)
        assert plain.roles is None
        assert encoded.ids_PT.equal(plain.ids_PT)
        assert encoded.mask_PT.equal(plain.mask_PT)
        check(processor, asked, encoded)
    assert processor._pieces.exact


@pytest.mark.parametrize("family", ["gemma3", "smolvlm", "pixtral", "mistral3"])
def test_roles_of_families_from_folders(family: str, tmp_path: Path) -> None:
    """Their templates trim texts and write the begin token themselves; Gemma 3 writes white space around images."""
    FOLDERS[family](tmp_path)
    processor = Pretrained(str(tmp_path)).load([]).processor
    for share_images in (False, True):
        encoded = processor.encode_prompts(several(), share_images, roles=True)
        check(processor, several(), encoded, strip=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_part_has_its_tokens_and_no_others(family: str) -> None:
    processor = reader(family).processor
    asked = several()[:1]
    encoded = processor.encode_prompts(asked, roles=True)
    roles = check(processor, asked, encoded)
    ids, role_T, document_T = encoded.ids_PT[0], roles.role_PT[0], roles.document_PT[0]
    said = {s.role: processor.tokenizer.decode(ids[role_T == ROLES.index(s.role)]) for s in asked[0].segments}
    assert said[Role.QUESTION] == "which user? x"
    assert said[Role.INSTRUCTION] == "user: look at\n"
    evidence = role_T == ROLES.index(Role.EVIDENCE_TEXT)
    assert processor.tokenizer.decode(ids[evidence & (document_T == 2)]) == "background: mild\n\n"
    for role, count in ((Role.EVIDENCE_IMAGE, 2), (Role.QUERY_IMAGE, 1)):
        of_role = ids[role_T == ROLES.index(role)]
        block = processor.image_block((40, 40))
        assert int((of_role == processor.image_token_id).sum()) == count * block.count(processor.image_token_id)
        begins = [processor.tokenizer.convert_tokens_to_ids(name) for name in BESIDE_IMAGE]
        assert [int((of_role == i).sum()) for i in begins] == ([count] * 2 if "qwen" in family else [0, 0])
    assert set(document_T[role_T == ROLES.index(Role.EVIDENCE_IMAGE)].tolist()) == {0, 2}
    assert bool(((document_T >= 0) == ((role_T == 1) | (role_T == 2))).all())


def test_strengths_stand_by_candidate_number() -> None:
    asked = several()
    shown_one = replace(asked[0], segments=asked[0].segments[4:])  # candidate 2 alone
    encoded = reader("llava").processor.encode_prompts([*asked, shown_one], roles=True)
    assert encoded.roles is not None
    found = encoded.roles.strength_PK
    nan = torch.nan
    want = [[0.9, 0.5, 0.1], [0.7, 0.6, nan], [0.3, 0.2, nan], [0.4, nan, nan], [0.8, nan, nan], [nan] * 3, [nan, nan, 0.1]]
    assert torch.equal(found.nan_to_num(-1), torch.tensor(want).nan_to_num(-1))


@pytest.mark.parametrize("swallows", ["lstrip", "rstrip"])
@pytest.mark.parametrize("share_images", [False, True])
def test_special_tokens_that_swallow_spaces(swallows: str, share_images: bool) -> None:
    """Pieces do not add up then; the space that a special token takes is no token of the text."""
    processor = reader("llava").processor
    tokens = [AddedToken(name, special=True, **{swallows: True}) for name in ("<image>", "<|user|>")]
    processor.tokenizer.add_special_tokens({"additional_special_tokens": tokens})
    asked = [
        Prompt((text(Role.INSTRUCTION, "  look "), image(Role.QUERY_IMAGE, 1), text(Role.QUESTION, "  is there a nodule? ")))
    ]
    encoded = processor.encode_prompts(asked, share_images, roles=True)
    assert encoded.roles is not None
    role_T, ids = encoded.roles.role_PT[0], encoded.ids_PT[0]
    assert int((role_T == ROLES.index(Role.QUERY_IMAGE)).sum()) == 4
    said = [processor.tokenizer.decode(ids[role_T == ROLES.index(r)]).strip() for r in (Role.INSTRUCTION, Role.QUESTION)]
    assert said == ["look", "is there a nodule?"]
    assert not processor.special_ids.intersection(ids[role_T == ROLES.index(Role.QUESTION)].tolist())
    assert role_T[0] == -1


def test_a_token_over_a_seam_is_of_the_later_segment() -> None:
    processor = reader("llava").processor
    (whole,) = (i for i in processor.tokenizer("effusion", add_special_tokens=False)["input_ids"][-1:])
    word = processor.tokenizer.decode([whole])
    assert len(word) > 1
    head = "effusion"[: len("effusion") - 1]
    asked = [Prompt((text(Role.EVIDENCE_TEXT, head, 0), text(Role.QUESTION, "n")), "", (1.0,))]
    encoded = processor.encode_prompts(asked, roles=True)
    assert encoded.roles is not None
    role_of = dict(zip(encoded.ids_PT[0].tolist(), encoded.roles.role_PT[0].tolist(), strict=True))
    assert role_of[whole] == ROLES.index(Role.QUESTION)


LLAVA_CHAT = (
    "USER: {% for m in messages %}{% for c in m['content'] if c['type'] == 'image' %}<image>\n{% endfor %}"
    "{% for c in m['content'] if c['type'] == 'text' %}{{ '\n' + c['text'] }}{% endfor %}{% endfor %} ASSISTANT:"
    "{% if not add_generation_prompt %} Qq7zkv</s>{% endif %}"
)


def sentence_pieces(first_space: str) -> transformers.PreTrainedTokenizerFast:
    """A tokenizer as Llama's: spaces are letters, one is put before the text, bytes stand for unknown letters."""
    backend = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    if first_space == "normalizer":
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=first_space, split=False)
    known = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
    letters = list("abcdefghijklmnopqrstuvwxyz:.,? \n▁")
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=known, show_progress=False, initial_alphabet=letters)
    backend.train_from_iterator(TEXTS, trainer)
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "additional_special_tokens": ["<image>"]}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **names)


@pytest.mark.parametrize("share_images", [False, True])
@pytest.mark.parametrize("first_space", ["normalizer", "first", "always"])
def test_a_tokenizer_and_a_template_as_those_of_llava_1_5(first_space: str, share_images: bool) -> None:
    """All images first, texts behind a new line each; with `first`, pieces apart give other tokens than the whole."""
    stock = reader("llava").processor.processor
    stock.tokenizer, stock.chat_template = sentence_pieces(first_space), LLAVA_CHAT
    stock.image_token_id = stock.tokenizer.convert_tokens_to_ids("<image>")
    processor = HfProcessor(stock)
    known = {"<image>": "none", "große Änderung": "mild"}
    plain = list(several()[0].segments)
    for odd, word in known.items():
        plain = [replace(segment, text=segment.text.replace(odd, word)) for segment in plain]
    encoded = processor.encode_prompts([Prompt(tuple(plain), "", (0.9, 0.5, 0.1))], share_images, roles=True)
    assert encoded.roles is not None
    ids, role_T, document_T = encoded.ids_PT[0], encoded.roles.role_PT[0], encoded.roles.document_PT[0]
    assert document_T[ids == processor.image_token_id].tolist() == [0] * 4 + [2] * 4 + [-1] * 4
    for segment in (s for s in plain if s.image is None):
        mine = ids[(role_T == ROLES.index(segment.role)) & (document_T == _number(segment))]
        assert "".join(processor.tokenizer.convert_ids_to_tokens(mine)).replace("▁", " ") == segment.text
    assert role_T[:2].tolist() == [-1, -1]
    assert processor._pieces.exact == (first_space != "first" or not share_images)


def test_a_template_that_changes_texts_is_refused() -> None:
    processor = reader("llava").processor
    asked = [Prompt((text(Role.QUESTION, "Is there a nodule?"),))]
    stock = processor.processor.chat_template
    processor.processor.chat_template = stock.replace("c['text']", "c['text'] | lower | replace('qq7', 'Qq7')")
    assert processor.encode_prompts(asked).roles is None
    with pytest.raises(ValueError, match="chat template changes 'Is there"):
        processor.encode_prompts(asked, roles=True)
    processor = reader("llava").processor
    processor.processor.chat_template = "{{ messages[0]['content'][0]['text'] * 2 }}" + stock
    with pytest.raises(ValueError, match="every text once"):
        processor.encode_prompts(asked, roles=True)


def test_roles_travel_with_the_processor_and_the_prompts() -> None:
    processor = reader("qwen2_vl").processor
    encoded = processor.encode_prompts(several(), share_images=True, roles=True)
    copy = pickle.loads(pickle.dumps(processor))  # noqa: S301  own bytes, as spawned workers do
    again = copy.encode_prompts(several(), share_images=True, roles=True)
    assert again.roles.role_PT.equal(encoded.roles.role_PT)
    assert encoded.to("cpu").roles.document_PT.equal(encoded.roles.document_PT)
