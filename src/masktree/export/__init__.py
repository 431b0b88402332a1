"""Files for the tools that people label and measure with: one module per format, a tree of masks in, a file out.

``formats.FORMATS`` lists them. The files are written here, without the tools' own packages.
"""
