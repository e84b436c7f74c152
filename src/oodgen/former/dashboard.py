from oodgen.__main__ import moved

if __name__ == "__main__":
    moved("dashboard", "workspace")
