"""`python -m autopeft`."""

import sys

if __name__ == "__main__":
    if not sys.flags.safe_path:
        # The current folder, which `-m` puts before all others: a `numpy.py` in somebody's folder would be imported.
        del sys.path[0]

    from autopeft.cli import main

    main()
