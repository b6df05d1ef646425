"""Helpers shared by all settings models: `secret`, `loopback`, `proxy` and `private_file`.

The models themselves are in `config`, `ringcentral` and `sinks`.
"""
