"""Consoles of machines: one line to each machine, shared by all who look, with scroll-back and a log, over three ways in.

`line.py` is what a driver provides; `stream.py` shares it; `consoles.py` keeps them by node; `logs.py` writes the files;
`tcp.py` and `ssh.py` let people in, and so does the API's WebSocket.
"""
