"""Tensors made of tensors: operators, functions, `.map`; read when they are read."""
