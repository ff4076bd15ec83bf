"""BibTeX entries of papers that more than one metric cites."""

LI_2025 = """@misc{li2025attention,
  title={Attention Illuminates LLM Reasoning: The Preplan-and-Anchor Rhythm Enables Fine-Grained Policy
         Optimization},
  author={Li, Yang and Dong, Zhichen and others},
  year={2025},
  eprint={2510.13554},
  archivePrefix={arXiv}
}"""
