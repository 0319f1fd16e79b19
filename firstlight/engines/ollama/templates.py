"""Prompt templates in Ollama's language, for models whose own template is of a known family.

Ollama finds one itself when it makes a model; a model that is made by files alone would have none, and its prompts
would reach it without any marks. The families and their marks: the model cards and tokenizer configurations of Qwen
and SmolLM (ChatML), Llama 3, Gemma and Phi-3.
"""

from __future__ import annotations

import msgspec


class Family(msgspec.Struct, frozen=True, kw_only=True):
    """A way to mark turns: what its templates hold, the same in Ollama's language, and what ends an answer."""

    marks: tuple[str, ...]
    template: str
    stops: tuple[str, ...]


_TURNS = "{{- range .Messages }}%s{{ end }}%s"
_FAMILIES = (
    Family(
        marks=("<|im_start|>", "<|im_end|>"),
        template=_TURNS % ("<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n", "<|im_start|>assistant\n"),
        stops=("<|im_start|>", "<|im_end|>"),
    ),
    Family(
        marks=("<|start_header_id|>", "<|eot_id|>"),
        template=_TURNS
        % (
            "<|start_header_id|>{{ .Role }}<|end_header_id|>\n\n{{ .Content }}<|eot_id|>",
            "<|start_header_id|>assistant<|end_header_id|>\n\n",
        ),
        stops=("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    ),
    Family(
        marks=("<start_of_turn>", "<end_of_turn>"),
        template=_TURNS
        % (
            '<start_of_turn>{{ if eq .Role "assistant" }}model{{ else }}user{{ end }}\n{{ .Content }}<end_of_turn>\n',
            "<start_of_turn>model\n",
        ),
        stops=("<start_of_turn>", "<end_of_turn>"),
    ),
    Family(
        marks=("<|assistant|>", "<|end|>"),
        template=_TURNS % ("<|{{ .Role }}|>\n{{ .Content }}<|end|>\n", "<|assistant|>\n"),
        stops=("<|end|>", "<|user|>", "<|assistant|>"),
    ),
)


def family_of(chat_template: str | None) -> Family | None:
    """Return the family of a model's own chat template; None: it has none, or one that is not known here."""
    text = chat_template or ""
    return next((family for family in _FAMILIES if all(mark in text for mark in family.marks)), None)
