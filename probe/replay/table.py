"""Every claim that can be replayed. An entry costs no import; the file that it names measures."""

from probe.replay.claim import Claims, Listed

_WU = "Wu et al. 2024 (arXiv:2404.15574)"

CLAIMS = Claims(
    {
        # What heads retrieve
        "masking": Listed(
            "probe.replay.claims.masking:CLAIM", "Masking retrieval heads loses the needle", _WU, 15
        ),
        "sparse_heads": Listed("probe.replay.claims.sparse_heads:CLAIM", "Few heads retrieve", _WU, 2),
        "universal_heads": Listed(
            "probe.replay.claims.universal_heads:CLAIM",
            "The same heads retrieve whatever is retrieved",
            _WU,
            3,
        ),
        "length_heads": Listed(
            "probe.replay.claims.length_heads:CLAIM", "The same heads retrieve at longer context", _WU, 2
        ),
        "recall_gap": Listed(
            "probe.replay.claims.recall_gap:CLAIM",
            "What retrieval heads are worth on ordinary text is recall",
            "Arora et al. 2023 (arXiv:2312.04927)",
            2,
        ),
        "window_layers": Listed(
            "probe.replay.claims.window_layers:CLAIM",
            "As full attention is taken away, loss stays and recall goes",
            "Arora et al. 2024 (arXiv:2402.18668)",
            3,
        ),
        "influence": Listed(
            "probe.replay.claims.influence:CLAIM",
            "Masking retrieval heads costs text that reasons more than its shuffled tokens",
            "Hua et al. 2025 (arXiv:2505.07293)",
            3,
        ),
        "sparse_density": Listed(
            "probe.replay.claims.sparse_density:CLAIM",
            "At one density, finer and sorted patterns keep more of the attention",
            "AnchorAttention (arXiv:2505.23520), PBS-Attn (arXiv:2510.21270), PowerAttention (arXiv:2503.03588)",
            3,
        ),
        # Where an answer comes from
        "document": Listed(
            "probe.replay.claims.document:CLAIM",
            "Reinforcing heads that read the document makes answers follow it",
            "He et al. 2025 (arXiv:2412.13949)",
            6,
        ),
        "sentence": Listed(
            "probe.replay.claims.sentence:CLAIM",
            "Knocking out the answer's sentence removes the answer",
            "Geva et al. 2023 (arXiv:2304.14767)",
            6,
        ),
        # What training makes
        "induction_heads": Listed(
            "probe.replay.claims.induction_heads:CLAIM",
            "Masking induction heads costs where a text repeats itself",
            "Olsson et al. 2022 (arXiv:2209.11895)",
            2,
        ),
        "training_makes_heads": Listed(
            "probe.replay.claims.training_makes_heads:CLAIM",
            "Previous-token, induction and sink heads come with training",
            "Olsson et al. 2022 (arXiv:2209.11895), Gu et al. 2025 (arXiv:2410.10781)",
            2,
        ),
        # What attention depends on
        "divergence": Listed(
            "probe.replay.claims.divergence:CLAIM",
            "The answer depends on the heads whose output diverges under a document",
            "He et al. 2025 (arXiv:2412.13949)",
            2,
        ),
        "persistence": Listed(
            "probe.replay.claims.persistence:CLAIM",
            "The positions that a layer looks at most are those of other layers too",
            "Yang et al. 2024 (arXiv:2410.05076)",
            1,
        ),
        "specificity": Listed(
            "probe.replay.claims.specificity:CLAIM",
            "Early layers look at the same keys whatever the query, late layers do not",
            "after Guo et al. 2023 (arXiv:2303.11126)",
            2,
        ),
        "static_layers": Listed(
            "probe.replay.claims.static_layers:CLAIM",
            "Mixing tokens is indispensable, its dependence on the text is not in a part of the layers",
            "Xue et al. 2025 (arXiv:2510.11602)",
            2,
        ),
        "isolation": Listed(
            "probe.replay.claims.isolation:CLAIM",
            "Tokens of a context need little attention among themselves",
            "Acharya et al. 2024 (arXiv:2411.17116)",
            2,
        ),
        "ensemble": Listed(
            "probe.replay.claims.ensemble:CLAIM",
            "Sub-sampled attention paths form an ensemble that is better than its members",
            "Hussain et al. 2023 (arXiv:2306.01705)",
            2,
        ),
        # Sinks, positions and order
        "extreme_tokens": Listed(
            "probe.replay.claims.extreme_tokens:CLAIM",
            "Sinks, drained values and residual peaks come together at the first token",
            "Guo et al. 2024 (arXiv:2410.13835)",
            1,
        ),
        "dormant_heads": Listed(
            "probe.replay.claims.dormant_heads:CLAIM",
            "Taking away what a dormant head gives is harmless",
            "Guo et al. 2024 (arXiv:2410.13835)",
            2,
        ),
        "bigram_backcopy": Listed(
            "probe.replay.claims.bigram_backcopy:CLAIM",
            "Extreme tokens grow by training alone: sink and drained value in one layer, a residual peak in three",
            "Guo et al. 2024 (arXiv:2410.13835)",
            4,
            ("smollm2-135m",),
        ),
        "no_position": Listed(
            "probe.replay.claims.no_position:CLAIM",
            "Softmax with rotary positions cannot see position alone",
            "Luo et al. 2022 (arXiv:2205.13401)",
            1,
        ),
        "nearness": Listed(
            "probe.replay.claims.nearness:CLAIM",
            "Rotary positions prefer what is near, the causal mask alone does not",
            "Su et al. 2021 (arXiv:2104.09864)",
            1,
        ),
        "order_free": Listed(
            "probe.replay.claims.order_free:CLAIM",
            "Segments in any order give the same continuation, by construction",
            "McIlroy-Young et al. 2024 (arXiv:2406.06581), Wang et al. 2024 (arXiv:2407.01100)",
            1,
        ),
        # Queries, keys, outputs and the loss
        "query_norm": Listed(
            "probe.replay.claims.query_norm:CLAIM",
            "Entropy falls with the query's norm",
            "Meng et al. 2025 (arXiv:2506.21137)",
            1,
        ),
        "linear_rank": Listed(
            "probe.replay.claims.linear_rank:CLAIM",
            "The output of linear attention is of lower rank",
            "Fan et al. 2024 (arXiv:2411.07635)",
            1,
        ),
        "queries_apart": Listed(
            "probe.replay.claims.queries_apart:CLAIM",
            "Queries are out of distribution to keys",
            "Liu et al. 2024 (arXiv:2409.10516)",
            1,
        ),
        "gradient_reach": Listed(
            "probe.replay.claims.gradient_reach:CLAIM",
            "Gradients reach farther back than attention looks",
            "Brändel et al. 2026 (arXiv:2606.29139)",
            2,
        ),
        "example_mass": Listed(
            "probe.replay.claims.example_mass:CLAIM",
            "One example raises the mass on valid choices, and accuracy may not follow",
            "Wiegreffe et al. 2023 (arXiv:2305.14596)",
            2,
        ),
        "context_recall": Listed(
            "probe.replay.claims.context_recall:CLAIM",
            "What a long context is worth lies on tokens that it has told before",
            "Arora et al. 2023 (arXiv:2312.04927)",
            2,
        ),
        # Entropy, redundancy and explanation
        "redundant_attention": Listed(
            "probe.replay.claims.redundant_attention:CLAIM",
            "Attention layers are more redundant than MLPs",
            "He et al. 2024 (arXiv:2406.15786)",
            3,
        ),
        "heads_per_token": Listed(
            "probe.replay.claims.heads_per_token:CLAIM",
            "Not all heads are needed at every token",
            "Jin et al. 2024 (arXiv:2410.11842)",
            2,
        ),
        "half_explanation": Listed(
            "probe.replay.claims.half_explanation:CLAIM",
            "Attention is half an explanation of what an answer depends on",
            "Papi et al. 2025 (arXiv:2509.18010)",
            1,
        ),
        "entropy_range": Listed(
            "probe.replay.claims.entropy_range:CLAIM",
            "Entropy keeps above the bound that its scores set, and overload is early only",
            "Zhai et al. 2023 (arXiv:2303.06296), Jha and Reagen 2025 (arXiv:2501.03489)",
            2,
        ),
        # How a response is written
        "rhythm": Listed(
            "probe.replay.claims.rhythm:CLAIM",
            "Tokens that later ones return to come where local heads look far back",
            "Li et al. 2025 (arXiv:2510.13554)",
            2,
        ),
        "peak_entropy": Listed(
            "probe.replay.claims.peak_entropy:CLAIM",
            "Where local heads look far back, the next token is less sure",
            "Li et al. 2025 (arXiv:2510.13554)",
            2,
        ),
        "receivers": Listed(
            "probe.replay.claims.receivers:CLAIM",
            "Receiver heads are the same heads in other texts",
            "Bogdan et al. 2025 (arXiv:2506.19143)",
            1,
        ),
        "suppression": Listed(
            "probe.replay.claims.suppression:CLAIM",
            "Sentences that receiver heads look back at matter more to what follows",
            "Bogdan et al. 2025 (arXiv:2506.19143)",
            4,
        ),
        # Which parts cause an answer
        "relevance_patching": Listed(
            "probe.replay.claims.relevance_patching:CLAIM",
            "Relevance finds what patching finds where gradients do not",
            "Jafari et al. 2025 (arXiv:2508.21258)",
            6,
        ),
        "few_attention_layers": Listed(
            "probe.replay.claims.few_attention_layers:CLAIM",
            "Few attention layers carry what the last token needs",
            "after Ben-Artzy & Schwartz 2024 (arXiv:2409.03621)",
            5,
        ),
        "last_token": Listed(
            "probe.replay.claims.last_token:CLAIM",
            "Sums are worked out at the last token",
            "Mamidanna et al. 2025 (arXiv:2509.09650)",
            5,
        ),
        "few_heads": Listed(
            "probe.replay.claims.few_heads:CLAIM",
            "A circuit of few heads recovers the task",
            "Wang et al. 2023 (arXiv:2211.00593)",
            3,
        ),
        "shared_circuits": Listed(
            "probe.replay.claims.shared_circuits:CLAIM",
            "Two tasks share more of their heads than chance",
            "Merullo et al. 2024 (arXiv:2310.08744)",
            2,
        ),
        "answer_sentence": Listed(
            "probe.replay.claims.answer_sentence:CLAIM",
            "An attribution head points to the sentence that states the answer",
            "Basu et al. 2025 (AttnAttrib)",
            8,
        ),
    }
)
