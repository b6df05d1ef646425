"""The proxy from the environment variables HTTPS_PROXY, HTTP_PROXY and NO_PROXY.

aiohttp's `trust_env` is not used: it also sends credentials from ~/.netrc, and reports an unusable proxy only when
the first request is sent.
"""

import base64
import urllib.request
from ipaddress import ip_address, ip_network

from msgspec import Struct
from yarl import URL

from callcast.settings.host import is_host
from callcast.settings.rejection import rejected


class Proxy(Struct, frozen=True):
    """A proxy. `url` is None if there is none; `headers` holds the proxy's credentials, if any."""

    url: URL | None = None
    headers: dict[str, str] | None = None


def environment_proxy(url: URL) -> Proxy:
    """Return the proxy for requests to `url`, none if NO_PROXY matches its host. Raises ValueError.

    The error has a fix, and neither it nor the message contains credentials.
    """
    proxies, name = urllib.request.getproxies(), f"{url.scheme.upper()}_PROXY"
    text = proxies.get(url.scheme, "").strip()
    if not text or _is_excepted(url, proxies.get("no", "")):
        return Proxy()
    scheme, _, rest = text.partition("://") if "://" in text else ("http", "", text)
    if scheme.lower() not in ("http", "https"):
        socks = scheme.lower().startswith("socks")
        problem = f"{name} names a {'SOCKS proxy' if socks else 'proxy that is neither http nor https'}"
        raise rejected(problem, f"name an http or https proxy in {name}, or set trust_env = false")
    try:
        proxy = URL(f"{scheme.lower()}://{rest}")
        usable = is_host(proxy.raw_host or "") and bool(proxy.port)
    except ValueError:
        usable = False
    if not usable:
        fix = f"write {name} as http://HOST:PORT or HOST:PORT, the port from 1 to 65535"
        raise rejected(f"{name} is not the address of a proxy", fix)
    if proxy.user is None:
        return Proxy(proxy)
    login = base64.b64encode(f"{proxy.user}:{proxy.password or ''}".encode()).decode()
    return Proxy(proxy.with_user(None), {"proxy-authorization": f"Basic {login}"})


def _is_excepted(url: URL, no_proxy: str) -> bool:
    return any(_names(entry.lower(), url) for entry in no_proxy.replace(",", " ").split())


def _names(entry: str, url: URL) -> bool:
    """Whether an entry of NO_PROXY matches `url`.

    An entry is *, a domain (with its subdomains), an address, or a network such as 10.0.0.0/8. A domain or an address
    can be followed by :PORT.
    """
    host = (url.host or "").rstrip(".")
    if entry == "*":
        return True
    if "/" in entry:
        try:
            network = ip_network(entry, strict=False)
        except ValueError:
            fix = "write it as 10.0.0.0/8 or fd00::/8, or remove it"
            raise rejected(f"NO_PROXY contains {entry}, which is not a network", fix) from None
        return _is_address(host) and ip_address(host) in network
    if _is_address(entry) or ":" not in entry or entry.endswith("]"):
        return _matches(entry.strip("[]"), host)
    name, _, port = entry.rpartition(":")
    return port == str(url.port) and _matches(name.strip("[]"), host)


def _matches(name: str, host: str) -> bool:
    if _is_address(name):
        return _is_address(host) and ip_address(name) == ip_address(host)
    domain = name.removeprefix("*").strip(".")
    return bool(domain) and (host == domain or host.endswith(f".{domain}"))


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
