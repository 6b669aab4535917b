"""A local OpenAI endpoint: any OpenAI client here, sealed requests beyond this machine.

    app      the routes, and one request from its head to its answer
    targets  absolute-form request targets, which name the host twice
    origins  web pages that the user allows, and their preflights
    door     who may ask: this machine, with the token
    models   names, aliases, and the model that a body asks for
    prices   the cap of one request
    answers  the enclave's answer as programs on this machine read it
    page     the page at /, for people
    unit     a systemd user unit
    cli      the command

Loopback only, with a bearer token of its own. The proxy keeps nothing and logs nothing of what
passes, and no other process may read its memory. An answer that was cut ends in an error that says
so: an SSE event for streams, HTTP 502 otherwise; never in silence.
"""
