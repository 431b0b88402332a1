"""Images of any size, analysed block by block: one dendrogram of all of them."""
