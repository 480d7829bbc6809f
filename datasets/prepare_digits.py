"""Build ``datasets/digits``: handwritten digits on photographs, from scikit-learn's own files."""

from d2kd.quickstart.digits import main

if __name__ == "__main__":
    main()
