"""Helpers shared by all settings models: `secret`, `host`, `loopback`, `proxy` and `private_file`.

The models themselves are in `config`, `ringcentral` and `sinks`.
"""
