"""The edge controller: recognises members in front of a camera, and opens the doors that they may open.

It runs on a machine of its own, and knows nothing of the server's code.
"""
