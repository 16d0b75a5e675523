from attempts import report


def build_wheel(*arguments, **options):
    report()
