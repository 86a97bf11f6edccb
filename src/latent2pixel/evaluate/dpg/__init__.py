"""DPG-Bench: yes-or-no questions about pictures of long prompts, answered by a judge that sees them.

Source:
    Hu et al. 2024, "ELLA: Equip Diffusion Models with LLM for Enhanced Semantic Alignment" (arXiv 2403.05135), which
    introduces it; its program, github.com/TencentQQGYLab/ELLA at commit 3c228f1, decides what a published number is.
"""
