"""A gpt that reads text a byte at a time, with the keys and values of the bytes before in a cache, for torch_infer.py.

Caches are made once for all places and written in place. Two ways to read them: `sliced` attends to the places that
there are (its sizes grow from call to call), `masked` to all of them with the later ones masked, in sizes that never
change, so that it can be traced and frozen."""
import torch
import torch.nn.functional as F
import torch_deploy


def block(w, name, x, heads, attend):
    b, c = x.shape
    q, k, v = (part.view(b, heads, 1, c // heads)
               for part in w.linear(name + "attn.qkv", w.norm(name + "norm1", x)).split(c, -1))
    x = x + w.linear(name + "attn.proj", attend(q, k, v).view(b, c))
    return x + w.linear(name + "proj", F.gelu(w.linear(name + "fc", w.norm(name + "norm2", x)), approximate="tanh"))


def attention(q, keys, values, mask=None):
    scores = (q @ keys.transpose(-1, -2)) * q.shape[-1] ** -0.5
    return (scores if mask is None else scores + mask).softmax(-1) @ values


class Steps:
    """Rows of one model and their caches."""

    def __init__(self, model, context, rows):
        self.w, self.heads, self.layers = model.weights, int(model.options["heads"]), int(model.options["layers"])
        self.context, self.table = context, self.w.of["embed.token.weight"]
        size = (rows, self.heads, context, self.table.shape[1] // self.heads)
        self.caches = [torch.zeros(size) for _ in range(2 * self.layers)]
        self.masked_form = self.masked

    def body(self, tokens, place, attend_at):
        x = F.embedding(tokens.int(), self.table) + place
        for i in range(self.layers):
            x = block(self.w, f"block.{i}.", x, self.heads, attend_at(i))
        return F.linear(self.w.norm("head.norm", x), self.w.of.get("head.weight", self.table))

    def sliced(self, tokens, t):
        def attend_at(i):
            keys, values = self.caches[2 * i:2 * i + 2]

            def attend(q, k, v):
                keys[:, :, t:t + 1], values[:, :, t:t + 1] = k, v
                return attention(q, keys[:, :, :t + 1], values[:, :, :t + 1])
            return attend
        return self.body(tokens, self.w.of["embed.place.weight"][t], attend_at)

    def masked(self, tokens, place, *caches):
        """`place`: i64 [1]."""
        mask = torch.zeros(self.context).masked_fill(torch.arange(self.context) > place, float("-inf"))

        def attend_at(i):
            def attend(q, k, v):
                keys, values = (cache.index_copy_(2, place, new) for cache, new in zip(caches[2 * i:2 * i + 2], (k, v)))
                return attention(q, keys, values, mask)
            return attend
        return self.body(tokens, F.embedding(place, self.w.of["embed.place.weight"]), attend_at)

    def fixed(self, tokens, t):
        return self.masked_form(tokens, torch.tensor([t]), *self.caches)

    def freeze(self, tokens):
        """Masked steps from here on by a frozen trace."""
        given = (tokens, torch.tensor([0]), *self.caches)
        with torch.no_grad():
            module = torch_deploy.Module(self.masked).eval()
            self.masked_form = torch.jit.freeze(torch.jit.trace(module, given, check_trace=False))


def forms(steps, tokens, arm):
    """[(name, step(tokens, place))]"""
    made = [("sliced", steps.sliced)]
    if arm == "best":
        steps.freeze(tokens)
        made.append(("masked,frozen", steps.fixed))
    return made


def check(step, rows, expected, judge):
    """Reads all places of the rows; `judge` raises where the logits of one are wrong."""
    for t in range(rows.shape[1]):
        judge(step(rows[:, t], t), expected[:, t])


def deployed(arm, model, tensors, batch, judge):
    """(name, step) of an arm, on caches for `batch`."""
    rows, expected = tensors["rows"], tensors["logits"].view(*tensors["rows"].shape, -1)
    context, middle = rows.shape[1], rows.shape[1] // 2
    for _, step in forms(Steps(model, context, len(rows)), rows[:, 0], arm):
        check(step, rows, expected, judge)
    made = forms(Steps(model, context, len(batch)), batch[:, 0], arm)
    calls = [(name, lambda b, step=step: step(b[:, middle], middle)) for name, step in made]
    name, _ = torch_deploy.fastest(calls, batch)
    return name, dict(made)[name]
