"""The tests, by what they need: see the README's section on them."""
