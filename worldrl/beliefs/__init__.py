"""Belief models: what is the state?"""
