"""`python -m medstill`."""

from medstill.cli import main

if __name__ == "__main__":
    main()
