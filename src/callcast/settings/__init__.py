"""What settings of every kind share: `secret`, `loopback`, `proxy`, `private_file`. No settings model lives here."""
