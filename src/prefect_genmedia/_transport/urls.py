"""What a URL's parameters are: signatures of the common storages and CDNs, credentials, or part of the file's name.

A signature is secret, expires and differs each time the same URL is signed. So it is never shown, and does not count
when two requests are compared. Another parameter that looks like a credential is never shown either, but it may decide
which file the URL gives.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit, urlunsplit


@dataclass(frozen=True)
class Scheme:
    """How a storage or CDN signs its URLs. Names are in lower case.

    Args:
        name: what uses it.
        telling: the parameters that such a URL always has, all of them.
        others: what else belongs to the signature.
        prefix: every parameter that begins so belongs to it, too; empty for none.
        kept: parameters with that prefix that choose what is delivered.
        shape: what the first telling parameter's value begins with, where its name alone says too little.
    """

    name: str
    telling: tuple[str, ...]
    others: frozenset[str] = frozenset()
    prefix: str = ""
    kept: frozenset[str] = frozenset()
    shape: str = ""

    def members(self, values: Mapping[str, str]) -> set[str]:
        """Those of a URL's parameters that belong to its signature; empty if it is not signed so.

        Args:
            values: the URL's parameters.
        """
        if not values.keys() >= set(self.telling):
            return set()
        if self.shape and not re.match(self.shape, values[self.telling[0]]):
            return set()
        return {each for each in values if self._has(each)}

    def _has(self, name: str) -> bool:
        by_prefix = bool(self.prefix) and name.startswith(self.prefix) and name not in self.kept
        return name in self.telling or name in self.others or by_prefix


def _scheme(name: str, telling: str, others: str = "", *, prefix: str = "", kept: str = "", shape: str = "") -> Scheme:
    return Scheme(name, tuple(telling.split()), frozenset(others.split()), prefix, frozenset(kept.split()), shape)


_BY_TIME = r"\d{10}-"
_MD5 = r"[0-9a-fA-F]{32}$"


SCHEMES = (
    _scheme("Amazon S3 v4, and what speaks S3", "x-amz-signature", "x-id", prefix="x-amz-"),
    _scheme("Amazon S3 v2", "awsaccesskeyid signature", "expires x-amz-security-token"),
    _scheme("Amazon CloudFront", "key-pair-id signature", "expires policy hash-algorithm"),
    _scheme("Google Cloud Storage v4", "x-goog-signature", prefix="x-goog-"),
    _scheme("Google Cloud Storage v2", "googleaccessid signature", "expires"),
    _scheme("Google Cloud CDN", "keyname signature", "expires urlprefix"),
    _scheme("Google Media CDN", "edge-cache-token"),
    _scheme(
        "Azure SAS",
        "sig sv",
        "se st sp spr sip sr ss srt si sdd ses scid saoid suoid sduoid skoid sktid skt ske sks skv",
    ),
    _scheme("Aliyun OSS v4", "x-oss-signature", prefix="x-oss-", kept="x-oss-process"),
    _scheme("Aliyun OSS v1", "ossaccesskeyid signature", "expires security-token"),
    _scheme("Aliyun CDN, type A; Volcengine CDN", "auth_key", shape=_BY_TIME),
    _scheme("Huawei OBS", "accesskeyid signature", "expires x-obs-security-token"),
    _scheme("Huawei CDN", "hwsecret hwtime"),
    _scheme("Huawei CDN, type E", "auth_info"),
    _scheme("Kingsoft KS3", "kssaccesskeyid signature", "expires"),
    _scheme("Tencent COS", "q-signature", "x-cos-security-token", prefix="q-"),
    _scheme("Tencent CDN, type A", "sign", shape=_BY_TIME),
    _scheme("Tencent CDN, type D, and video on demand; Qiniu CDN", "sign t", "us exper rlimit", shape=_MD5),
    _scheme("Qiniu", "token e", shape="[^:]+:[^:]+$"),
    _scheme("Upyun", "_upt"),
    _scheme("Baidu BOS", "authorization", "x-bce-security-token", shape="bce-auth-v"),
    _scheme("Volcengine TOS", "x-tos-signature", prefix="x-tos-", kept="x-tos-process"),
    _scheme("Volcengine image and video delivery", "x-signature", "x-expires lk3s rk3s"),
    _scheme(
        "Bunny",
        "token expires",
        "token_path token_countries token_countries_blocked token_ver limit",
        shape="(HS256-)?[A-Za-z0-9_-]{22,43}$",
    ),
    _scheme("Discord", "ex is hm"),
    _scheme("Akamai", "hdnts"),
    _scheme("Akamai", "hdnea"),
    _scheme("Akamai", "hdntl"),
    _scheme("Akamai", "__token__"),
    _scheme("Cloudflare", "verify", shape=_BY_TIME),
    _scheme("Cloudinary", "__cld_token__"),
    _scheme("imgix", "s ixlib", "expires"),
    _scheme("Meta's CDN", "oh oe"),
    _scheme("Dropbox", "rlkey", "st"),
    _scheme("SharePoint", "tempauth"),
    _scheme("a signature that names no key", "signature expires", "policy"),
    _scheme("nginx secure_link", "md5 expires"),
    _scheme("Wangsu CDN", "wssecret wstime"),
    _scheme("Tencent live streams", "txsecret txtime"),
    _scheme("OpenStack Swift", "temp_url_sig temp_url_expires", "temp_url_prefix temp_url_ip_range"),
    _scheme("ImageKit", "ik-s", "ik-t"),
    _scheme("Huawei OBS v4", "x-obs-signature", prefix="x-obs-"),
    _scheme("Backblaze B2", "authorization", shape=r"[34]_\d{14}_"),
)
"""The signing schemes, each with its whole set of parameters, by the public documents of the storages and CDNs."""

# A token in the path: Bunny, Google Media CDN, Akamai.
_PATH_TOKEN = re.compile(r"/(?:bcdn_token|edge-cache-token|hdn(?:ts|tl|ea)|__token__)=[^/]*", re.IGNORECASE)

# Words of a parameter's name, after CamelCase and separators are taken apart.
_CREDENTIAL = frozenset(
    "token jwt auth authorization apikey accesskey secretkey authkey appkey key secret sig sign signature policy "
    "credential credentials password passwd pwd passcode pin session sessionid sid ticket hmac sas".split()
)
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_JOINED = re.compile(r"(?:token|secret|apikey|accesskey|signature|password)$")


@dataclass(frozen=True)
class ReadUrl:
    """A URL, and what its parameters are.

    Args:
        parts: the URL's parts.
        pairs: its parameters, in their order.
        signing: names, in lower case, of those that belong to a signature of a known scheme.
        credentials: names of those that look like a credential, and belong to no scheme.
    """

    parts: SplitResult
    pairs: tuple[tuple[str, str], ...]
    signing: frozenset[str]
    credentials: frozenset[str]

    def without(self, names: Collection[str]) -> str:
        """The URL without these parameters, a token in its path, user, password and fragment.

        Args:
            names: parameters, in lower case.
        """
        kept = [(name, value) for name, value in self.pairs if name.lower() not in names]
        host = self.parts.netloc.rpartition("@")[2]
        path = _PATH_TOKEN.sub("", self.parts.path)
        return urlunsplit((self.parts.scheme, host, path, urlencode(kept, errors="surrogateescape"), ""))


@lru_cache(maxsize=4096)
def read_url(url: str) -> ReadUrl:
    """Read a URL's parameters.

    Args:
        url: the URL.

    Raises:
        ValueError: it is no URL that can be read.
    """
    parts = urlsplit(url)
    # Bytes that are no UTF-8 (a name in GBK) must come out as they went in.
    pairs = tuple(parse_qsl(parts.query, keep_blank_values=True, errors="surrogateescape"))
    values = {name.lower(): value for name, value in pairs}
    signing = {member for scheme in SCHEMES for member in scheme.members(values)}
    credentials = {name.lower() for name, value in pairs if value and _looks_like_credential(name)}
    return ReadUrl(parts, pairs, frozenset(signing), frozenset(credentials - signing))


def _looks_like_credential(name: str) -> bool:
    words = [word.lower() for word in _WORD.findall(name)]
    return not _CREDENTIAL.isdisjoint(words) or bool(_JOINED.search(name.lower()))


def shown_url(url: str) -> str:
    """The URL as it may be shown and stored: without signatures, credentials, user, password and fragment.

    A `data:` URI is cut to its media type.

    Args:
        url: the URL.

    Raises:
        ValueError: it is no URL that can be read.
    """
    if url[:5].lower() == "data:":
        return url.split(",", 1)[0] + ",…"
    read = read_url(url)
    return read.without(read.signing | read.credentials)


def identity_url(url: str, content_sha256: str | None = None) -> str:
    """The URL as it counts in a job's identity.

    A signature does not count. In place of a credential that belongs to no known scheme, the content of the file
    counts, since the credential may choose the file, and may as well change each night.

    Args:
        url: an http or https URL.
        content_sha256: digest of the file's bytes, in hex; None where they cannot be read, or were not.

    Raises:
        ValueError: it is no URL that can be read.
    """
    read = read_url(url)
    if not read.credentials:
        return read.without(read.signing)
    named = read.without(read.signing | read.credentials)
    if content_sha256 is not None:
        return f"{named} content {content_sha256}"
    return f"{named} url {url_digest(url)}"


def url_digest(url: str) -> str:
    """SHA-256, in hex, of a URL with its credentials, but without signatures.

    Args:
        url: an http or https URL.
    """
    read = read_url(url)
    return hashlib.sha256(read.without(read.signing).encode("utf-8", "surrogatepass")).hexdigest()


_V1_PREFIXES = ("x-amz-", "x-goog-", "x-oss-", "x-tos-", "x-cos-", "q-sign", "q-key", "q-header", "q-url", "q-ak")
_V1_KEPT = frozenset({"x-oss-process", "x-tos-process"})
_V1_ALWAYS = frozenset("authorization token access_token api_key apikey auth_key x-signature x-expires".split())
_V1_BESIDE = {
    "signature": frozenset(
        "signature expires awsaccesskeyid ossaccesskeyid googleaccessid security-token policy key-pair-id".split()
    ),
    "sig": frozenset("sig se sp sv sr st spr skoid sktid skt ske sks skv".split()),
}


def version_1_url(url: str) -> str:
    """The URL as it counted in identities of version 1. Never change this: ledgers hold digests of it.

    Args:
        url: an http or https URL.
    """
    parts = urlsplit(url)
    pairs = parse_qsl(parts.query, keep_blank_values=True, errors="surrogateescape")
    dropped = version_1_dropped({name.lower() for name, _ in pairs})
    kept = [(name, value) for name, value in pairs if name.lower() not in dropped]
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, urlencode(kept, errors="surrogateescape"), ""))


def version_1_dropped(names: Collection[str]) -> frozenset[str]:
    """Those parameters of a URL that did not count in identities of version 1.

    Args:
        names: the URL's parameters, in lower case.
    """
    dropped = _V1_ALWAYS.union(*(group for telling, group in _V1_BESIDE.items() if telling in names))
    by_prefix = {name for name in names if name.startswith(_V1_PREFIXES) and name not in _V1_KEPT}
    return dropped.intersection(names) | by_prefix
