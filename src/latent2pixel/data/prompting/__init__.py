"""Prompts by a language model: taxonomy, plan, templates, questions, audit, and the folder that they fill."""
