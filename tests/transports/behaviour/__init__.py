"""What a client does, written once and run over every adapter, against real sockets.

`adapters.py` gives the three clients one blocking face (`faces.py`); the fixture `adapter` is each of them in turn. A
test here does not depend on an adapter's means (tasks, threads, selectors): those have files of their own.

    connecting    the first connection: refused, down, TLS, params and tokens
    channels      joins, leaves, pushes, presence
    streams       messages one after another
    handlers      which handlers get which messages, in which order; errors; back-pressure
    lives         lost and found connections, events, the end
    interrupts    every waiting call given up; programs that end
    faults        every row of the table of faults, by its number
"""
