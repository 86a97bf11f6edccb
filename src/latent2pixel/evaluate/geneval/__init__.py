"""GenEval: what a detector finds in pictures against what their prompts asked for, six tasks.

Source:
    Ghosh et al. 2023, "GenEval: An Object-Focused Framework for Evaluating Text-to-Image Alignment" (arXiv 2310.11513);
    its program, github.com/djghosh13/geneval at commit af4902f, decides where the paper leaves a choice.
"""
