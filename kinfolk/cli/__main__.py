"""``python -m kinfolk.cli``, as launchers of several processes need it."""

from kinfolk.cli import main

raise SystemExit(main())
