"""The studio: a page on 127.0.0.1 to see what a model is sure of. It holds no maths: an action is a library call.

jeppa studio [--model RUN] [--port 7860] [--language en|ru]
"""
