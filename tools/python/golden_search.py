"""Reference searches for the goldens: a trie, a plain beam search over HF logits, and HF `generate`.

Three independent computations of the same thing, so that one can be held against the others:

* `plain_beam`   the definition (docs: "Scores"): at each step the candidates are all legal children of all beams; the B
                 best are kept by (score descending, parent rank ascending, code ascending); fewer when the trie runs out.
                 Logits come from a full HF forward per step, no cache.
* `hf_generate`  `generate(num_beams=B, prefix_allowed_tokens_fn=..)`, with HF's own cache and bookkeeping. Only
                 `full_then_mask` can be said this way.
* `forced`       log-probabilities of one given SID from a single teacher-forced forward.

What it does not do: batching, sampling, speed.
"""
import torch

DEAD = -1.0e8  # HF marks beams that do not exist with -1e9 (or -inf); no real score comes near


class Trie:
    def __init__(self, sids):
        self.children = {}
        for sid in sids:
            for depth in range(len(sid)):
                self.children.setdefault(tuple(sid[:depth]), set()).add(sid[depth])
        self.children = {prefix: sorted(codes) for prefix, codes in self.children.items()}
        self.levels = len(sids[0])
        self.leaves = sorted(set(map(tuple, sids)))

    def width(self, level):
        """Nodes at depth `level + 1`."""
        return len({sid[: level + 1] for sid in self.leaves})


class KeepInput(torch.nn.Linear):
    """HF's own head, which keeps what it is given: the heads of the levels are given the same."""

    def forward(self, x):
        self.owner[0].level_heads_input = x
        return super().forward(x)


def watch(model):
    """Has HF's head keep its input as `level_heads_input`."""
    head = model.get_output_embeddings()
    model.lm_head = KeepInput(head.in_features, head.out_features, bias=False)
    model.lm_head.weight, model.lm_head.owner = head.weight, [model]


class Scorer:
    """One export: the HF model, the token of every (level, code), and the manifest's score rule."""

    def __init__(self, model, manifest, encoder_decoder, use_cache, trie):
        self.trie = trie
        self.model, self.use_cache, self.encoder_decoder = model, use_cache, encoder_decoder
        self.level_tokens = []
        for level in manifest["sid"]["levels"]:
            tokens = level["tokens"]
            self.level_tokens.append(tokens["list"] if "list" in tokens else [tokens["first"] + c for c in range(level["codes"])])
        self.mode = manifest["score"]
        self.length_penalty = manifest["length_penalty"]
        self.start = manifest.get("decoder_prefix", [])
        end = manifest.get("end", {"tokens": [], "scored": False})
        self.end = end["tokens"] if end["scored"] else []
        assert not (self.end and self.mode != "full_then_mask")
        # "length counts scored tokens": the levels and, when it is scored, the end. HF divides by the number of
        # generated tokens, which is the same number because `hf_generate` generates the end only when it is scored.
        self.length = len(self.level_tokens) + len(self.end)

    def forget(self):
        """Of close calls so far: these models make none but those of the search."""

    def safe(self):
        return True

    def encode(self, prompt):
        """What does not change from step to step: the encoder output, or nothing for a decoder-only model."""
        if not self.encoder_decoder:
            return None
        ids = torch.tensor([prompt])
        return self.model.get_encoder()(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state

    def encoder_outputs(self, states):
        """As the model's forward takes them."""
        return (states,)

    def logits(self, prompt, encoded, rows):
        """[len(rows), tokens in a row + 1, vocab]: logits after the prompt and after each token of a row. With a head a level,
        what HF's own head would be given: [.., hidden]."""
        rows = torch.tensor(rows, dtype=torch.long).view(len(rows), -1)
        if self.encoder_decoder:
            ids = torch.cat([torch.tensor(self.start).expand(len(rows), -1), rows], 1)
            out = self.model(encoder_outputs=self.encoder_outputs(encoded.expand(len(rows), -1, -1)), decoder_input_ids=ids, use_cache=False)
        else:
            ids = torch.cat([torch.tensor(prompt).expand(len(rows), -1), rows], 1)
            out = self.model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, logits_to_keep=rows.shape[1] + 1)
        if self.mode == "level_head":
            return self.model.level_heads_input[:, -(rows.shape[1] + 1):]
        return out.logits[:, -(rows.shape[1] + 1):]

    def level_log_probs(self, logits, level, prefixes):
        """[rows, codes]: log-probability of every code of a level under the declared mode. `prefixes`: the codes before it, of
        each row; they decide what is legal."""
        if self.mode == "level_head":
            return self.model.level_heads[level](logits).log_softmax(-1)
        tokens = torch.tensor(self.level_tokens[level])
        if self.mode == "full_then_mask":
            return logits.log_softmax(-1)[:, tokens]
        if self.mode == "mask_then_norm":
            legal = torch.full((len(prefixes), len(tokens)), float("-inf"), dtype=logits.dtype)
            for row, prefix in enumerate(prefixes):
                legal[row, self.trie.children[tuple(prefix)]] = 0.0
            return (logits[:, tokens] + legal).log_softmax(-1)
        assert self.mode == "level_norm"
        return logits[:, tokens].log_softmax(-1)

    def tokens(self, sid):
        return [self.level_tokens[level][code] for level, code in enumerate(sid)]

    @torch.inference_mode()
    def forced(self, prompt, sid):
        """Log-probability of each level of `sid`, then of each scored end token."""
        tokens = self.tokens(sid) + self.end
        logits = self.logits(prompt, self.encode(prompt), [tokens[:-1]])[0]
        levels = [self.level_log_probs(logits[level:level + 1], level, [sid[:level]])[0, code].item() for level, code in enumerate(sid)]
        return levels + [logits[len(sid) + i].log_softmax(-1)[t].item() for i, t in enumerate(self.end)]

    @torch.inference_mode()
    def forced_scores(self, prompt, sids, rows_at_once=32):
        """Scores of many SIDs, as `forced` would add them up."""
        encoded, out = self.encode(prompt), []
        for start in range(0, len(sids), rows_at_once):
            part = sids[start:start + rows_at_once]
            tokens = torch.tensor([self.tokens(sid) + self.end for sid in part])
            logits = self.logits(prompt, encoded, tokens[:, :-1].tolist())
            total, rows = torch.zeros(len(part)), torch.arange(len(part))
            for step in range(tokens.shape[1]):
                if step < len(self.level_tokens):
                    log_probs = self.level_log_probs(logits[:, step], step, [sid[:step] for sid in part])[rows, [sid[step] for sid in part]]
                else:
                    log_probs = logits[:, step].log_softmax(-1)[rows, tokens[:, step]]
                total += log_probs
            out.append(total / self.length ** self.length_penalty)
        return torch.cat(out)

    @torch.inference_mode()
    def plain_beam(self, prompt, beams):
        """-> (results best first, the smallest score difference on which the list or its order hangs)."""
        encoded, trie = self.encode(prompt), self.trie
        live, margin = [((), torch.tensor(0.0))], float("inf")
        for level in range(trie.levels):
            log_probs = self.level_log_probs(self.last(prompt, encoded, live, []), level, [sid for sid, _ in live])
            found = [(score + log_probs[rank, code], rank, code, sid + (code,))
                     for rank, (sid, score) in enumerate(live) for code in trie.children[sid]]
            found.sort(key=lambda f: (-f[0].item(), f[1], f[2]))
            if len(found) > beams:
                margin = min(margin, (found[beams - 1][0] - found[beams][0]).item())
            live = [(sid, score) for score, _, _, sid in found[:beams]]
        for i, token in enumerate(self.end):
            log_probs = self.last(prompt, encoded, live, self.end[:i]).log_softmax(-1)[:, token]
            found = [(score + log_probs[rank], rank, sid) for rank, (sid, score) in enumerate(live)]
            found.sort(key=lambda f: (-f[0].item(), f[1]))
            live = [(sid, score) for score, _, sid in found]
        gaps = [(a[1] - b[1]).item() for a, b in zip(live, live[1:])]
        scale = self.length ** self.length_penalty
        return [(list(sid), (score / scale).item()) for sid, score in live], min([margin] + gaps)

    def last(self, prompt, encoded, live, suffix, rows_at_once=32):
        rows = [self.tokens(sid) + suffix for sid, _ in live]
        return torch.cat([self.logits(prompt, encoded, rows[i:i + rows_at_once])[:, -1] for i in range(0, len(rows), rows_at_once)])

    @torch.inference_mode()
    def hf_generate(self, prompt, beams):
        """-> (results best first, True if HF filled all `beams` places with legal SIDs)."""
        trie = self.trie
        allowed, sid_of = {}, {}
        for prefix, codes in trie.children.items():
            allowed[tuple(self.tokens(prefix))] = [self.level_tokens[len(prefix)][c] for c in codes]
        for sid in trie.leaves:
            tokens = self.tokens(sid)
            sid_of[tuple(tokens)] = list(sid)
            for i, token in enumerate(self.end):
                allowed[tuple(tokens + self.end[:i])] = [token]
        ids = torch.tensor([prompt])
        begin = len(self.start) if self.encoder_decoder else len(prompt)
        extra = {"decoder_input_ids": torch.tensor([self.start])} if self.encoder_decoder else {}
        # A beam that left the trie (HF needs them to fill its places) is dead already; [0] only keeps HF from raising.
        out = self.model.generate(
            ids, attention_mask=torch.ones_like(ids), num_beams=beams, num_return_sequences=beams, do_sample=False,
            max_new_tokens=self.length, length_penalty=self.length_penalty, early_stopping=False, use_cache=self.use_cache,
            prefix_allowed_tokens_fn=lambda _, seq: allowed.get(tuple(seq[begin:].tolist()), [0]), pad_token_id=0,
            eos_token_id=self.end[-1] if self.end else None, return_dict_in_generate=True, output_scores=True,
            output_logits=beams == 1, **extra)
        if beams == 1:  # HF runs greedy search instead, which returns no sequence score: add up the steps it took
            steps = [raw[0].log_softmax(-1)[token] for raw, token in zip(out.logits, out.sequences[0, begin:])]
            scores = [(sum(steps) / self.length ** self.length_penalty).item()]
        else:
            scores = out.sequences_scores.tolist()
        results = []
        for seq, score in zip(out.sequences.tolist(), scores):
            new = seq[begin:]
            if score < DEAD:
                continue
            sid, tail = new[:trie.levels], new[trie.levels:]
            assert tail == self.end, (new, self.end)
            results.append((sid_of[tuple(sid)], score))
        return results, len(results) == beams
