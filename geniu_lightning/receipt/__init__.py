"""From a finished unlearning run to one page for people who do not read code."""
