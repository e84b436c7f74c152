from oodgen.__main__ import moved

if __name__ == "__main__":
    moved("simple_set", "simple-set")
