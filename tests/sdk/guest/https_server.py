"""A web server that speaks HTTPS only, in plain Python, to be run inside a sandbox.

Usage: https_server.py HOST PORT. Answers every GET with the `Host` it was asked for. Its certificate
is signed by itself; the key is no secret, and is good for nothing else.
"""

import http.server
import ssl
import sys
import tempfile

PEM = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg9lTJHrw3w9h7zOxb
58TB4+DcqM6IzzE/j4FO/y2d7aehRANCAATmjcyBSVWWT9zwPgEoE9cwebE7++6w
y5eK8ZCbHQZDPpvBNULjs+FObxCc+LRmmiTW56i6aPNtPgbV7DDCuKBM
-----END PRIVATE KEY-----
-----BEGIN CERTIFICATE-----
MIIBejCCASGgAwIBAgIUMZWS71aIkg3q1jbm6s48KFQGq5swCgYIKoZIzj0EAwIw
EjEQMA4GA1UEAwwHc2FuZGJveDAgFw0yNjExMjIyMDQwMzRaGA8yMTI2MTAyOTIw
NDAzNFowEjEQMA4GA1UEAwwHc2FuZGJveDBZMBMGByqGSM49AgEGCCqGSM49AwEH
A0IABOaNzIFJVZZP3PA+ASgT1zB5sTv77rDLl4rxkJsdBkM+m8E1QuOz4U5vEJz4
tGaaJNbnqLpo820+BtXsMMK4oEyjUzBRMB0GA1UdDgQWBBRLBBHfWfUCQ1psQTQo
CIxakhEJuDAfBgNVHSMEGDAWgBRLBBHfWfUCQ1psQTQoCIxakhEJuDAPBgNVHRMB
Af8EBTADAQH/MAoGCCqGSM49BAMCA0cAMEQCIEEbBTdLjgwTXfWAWNB5HyHSA4Qw
ZwbQmlHFQEWYjECHAiAFcEr8x+9OuXI2o/EI4/uluZ7beagNwqJkYYyaXn3Cvg==
-----END CERTIFICATE-----
"""


class Host(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.headers["Host"].encode())


context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
with tempfile.NamedTemporaryFile("w") as pem:
    pem.write(PEM)
    pem.flush()
    context.load_cert_chain(pem.name)
server = http.server.ThreadingHTTPServer((sys.argv[1], int(sys.argv[2])), Host)
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
