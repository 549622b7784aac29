"""From logits to the text of a grid: always valid, and in several times fewer passes than one token a pass.

    grammar     the format as an automaton over characters: what may still be written
    constraint  from characters to tokens: which tokens of a vocabulary the automaton allows
    drafting    the text that probably comes next, for the model to verify
    protocols   what the loops know of a model (`CausalDecoder`) and of a checkpoint's own scores (`TokenScorer`)
    hypothesis  the text accepted so far, and how every token of it was chosen
    generate    the three greedy loops: free, constrained and fast
    dialects    the grammar as EBNF, GBNF or Lark for other engines: `t4s grammar`
    confidence  how sure the model is of each cell, from the distributions along the way

Models are known by the two protocols alone, so tests drive the loops with stand-ins.
"""
