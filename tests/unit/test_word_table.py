"""New rows beside a table: they alone train, and every other id reads what it read before."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tuner.nn.word_table import WordTable

ROWS, WIDTH = 12, 5


@pytest.fixture
def table() -> nn.Embedding:
    torch.manual_seed(0)
    return nn.Embedding(ROWS, WIDTH).requires_grad_(requires_grad=False)


def made(table, ids=(ROWS, ROWS + 1), length=None) -> WordTable:
    return WordTable(table, ids, torch.randn(len(ids), WIDTH, generator=torch.manual_seed(1)), length=length)


def test_known_ids_read_the_table_and_new_ones_their_rows(table):
    words = made(table)
    ids = torch.tensor([[0, 3, ROWS, 11], [ROWS + 1, ROWS, 5, 5]])
    read = words(ids)
    new = ids >= ROWS
    assert torch.equal(read[~new], table(ids[~new]))
    assert torch.equal(read[new], words.vectors[ids[new] - ROWS])


def test_an_id_within_the_table_may_be_a_new_word(table):
    """T5's table is longer than its vocabulary: new words get rows that nobody reads."""
    words = made(table, ids=(7,))
    assert torch.equal(words(torch.tensor([[7]]))[0], words.vectors)


def test_gradients_reach_the_new_rows_alone(table):
    words = made(table)
    words(torch.tensor([[1, ROWS + 1, ROWS + 1]])).sum().backward()
    assert table.weight.grad is None
    assert words.vectors.grad.tolist() == [[0.0] * WIDTH, [2.0] * WIDTH]
    assert [name for name, p in words.named_parameters() if p.requires_grad] == ["vectors"]


def test_off_it_reads_what_the_rows_began_as(table):
    words = made(table)
    ids = torch.tensor([[2, ROWS]])
    before = words(ids).detach().clone()
    with torch.no_grad():
        words.vectors += 1
    assert not torch.equal(words(ids), before)
    words.on = False
    assert torch.equal(words(ids), before)


def test_a_second_word_stands_on_the_first(table):
    first = made(table, ids=(ROWS,))
    second = made(first, ids=(ROWS + 1,))
    ids = torch.tensor([[4, ROWS, ROWS + 1]])
    expected = torch.stack([table.weight[4], first.vectors[0], second.vectors[0]])
    assert torch.equal(second(ids)[0], expected)
    assert second.weight is table.weight


@pytest.mark.parametrize("length", [0.4, 3.0])
def test_length_holds_each_row_at_it_whatever_the_optimizer_does(table, length):
    words = made(table, length=length)
    with torch.no_grad():
        words.vectors *= torch.tensor([[7.0], [0.01]])
    read = words(torch.tensor([[ROWS, ROWS + 1]]))[0]
    assert torch.allclose(read.norm(dim=-1), torch.full((2,), length))
    assert torch.allclose(torch.cosine_similarity(read, words.vectors), torch.ones(2))


def test_rows_are_cast_to_the_tables_type_and_stay_float32(table):
    words = made(table.to(torch.bfloat16))
    read = words(torch.tensor([[0, ROWS]]))
    assert read.dtype == torch.bfloat16
    assert words.vectors.dtype == torch.float32
    assert torch.equal(read[0, 1], words.vectors[0].to(torch.bfloat16))
