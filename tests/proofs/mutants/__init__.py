"""Mutation testing: does any test notice when a line of the core is broken?"""
