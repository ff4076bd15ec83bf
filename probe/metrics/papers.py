"""BibTeX entries of papers that more than one metric cites."""

LI_2025 = """@misc{li2025attention,
  title={Attention Illuminates LLM Reasoning: The Preplan-and-Anchor Rhythm Enables Fine-Grained Policy
         Optimization},
  author={Li, Yang and Dong, Zhichen and others},
  year={2025},
  eprint={2510.13554},
  archivePrefix={arXiv}
}"""

GUO_2024 = """@misc{guo2024active,
  title={Active-Dormant Attention Heads: Mechanistically Demystifying Extreme-Token Phenomena in LLMs},
  author={Guo, Tianyu and Pai, Druv and Bai, Yu and Jiao, Jiantao and Jordan, Michael I. and Mei, Song},
  year={2024},
  eprint={2410.13835},
  archivePrefix={arXiv}
}"""

SUN_2024 = """@inproceedings{sun2024massive,
  title={Massive Activations in Large Language Models},
  author={Sun, Mingjie and Chen, Xinlei and Kolter, J. Zico and Liu, Zhuang},
  booktitle={Conference on Language Modeling},
  year={2024}
}"""

GU_2025 = """@inproceedings{gu2025attention,
  title={When Attention Sink Emerges in Language Models: An Empirical View},
  author={Gu, Xiangming and Pang, Tianyu and Du, Chao and Liu, Qian and Zhang, Fengzhuo and Du, Cunxiao and
          Wang, Ye and Lin, Min},
  booktitle={International Conference on Learning Representations},
  year={2025}
}"""

XUE_2025 = """@misc{xue2025deconstructing,
  title={Deconstructing Attention: Investigating Design Principles for Effective Language Modeling},
  author={Xue, Huiyin and Moosavi, Nafise Sadat and Aletras, Nikolaos},
  year={2025},
  eprint={2510.11602},
  archivePrefix={arXiv}
}"""

WANG_2021 = """@inproceedings{wang2021spatten,
  title={{SpAtten}: Efficient Sparse Attention Architecture with Cascade Token and Head Pruning},
  author={Wang, Hanrui and Zhang, Zhekai and Han, Song},
  booktitle={IEEE International Symposium on High-Performance Computer Architecture},
  year={2021}
}"""

HE_2024 = """@misc{he2024matters,
  title={What Matters in Transformers? Not All Attention is Needed},
  author={He, Shwai and Sun, Guoheng and Shen, Zheyu and Li, Ang},
  year={2024},
  eprint={2406.15786},
  archivePrefix={arXiv}
}"""

DAHLKE_2025 = """@misc{dahlke2025mixture,
  title={Mixture of Tunable Experts: Behavior Modification of {DeepSeek-R1} at Inference Time},
  author={Dahlke, Robert and Klagges, Henrik and Zecha, Dan and Merkel, Benjamin and Rohr, Sven and Klemm, Fabian},
  year={2025},
  eprint={2502.11096},
  archivePrefix={arXiv}
}"""

ABNAR_2020 = """@inproceedings{abnar2020quantifying,
  title={Quantifying Attention Flow in Transformers},
  author={Abnar, Samira and Zuidema, Willem},
  booktitle={Proceedings of the 58th Annual Meeting of the Association for Computational Linguistics},
  year={2020}
}"""
